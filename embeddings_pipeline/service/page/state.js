/** The tab that shows how far each entity is. */

import { plan, stats } from "./api.js";
import { button, byId, drawing, element } from "./elements.js";
import { counted, dollars, duration, label, moment, percent, whole } from "./format.js";

const AGAIN_MS = 10_000;

/** Asks again from time to time, while it is in view. */
export function stateView({ refused }) {
  const place = byId("entities");
  // what was planned stays while the rest is drawn again
  const plans = new Map();
  let drawn = "";
  let waiting;
  let active = false;

  async function refresh() {
    clearTimeout(waiting);
    try {
      const found = await stats();
      if (!active) return;
      draw(found);
    } catch (error) {
      if (!active) return;
      drawn = "";
      byId("counted").textContent = "";
      refused(error, place, refresh);
      // asked again with a key, or by `refused`
      if (error.status === 401 || error.wait !== null) return;
    }
    waiting = setTimeout(refresh, AGAIN_MS);
  }

  function draw({ entities, replica_lag_seconds: lag }) {
    const text = JSON.stringify([entities, lag]);
    if (text === drawn) return;
    drawn = text;
    const open = new Set([...place.querySelectorAll("details[open]")].map((one) => one.id));
    byId("counted").textContent = summary(entities, lag);
    place.replaceChildren(...entities.map((one) => card(one, open, plans)));
  }

  document.addEventListener("visibilitychange", () => {
    clearTimeout(waiting);
    if (active && !document.hidden) refresh();
  });

  return {
    /** Begin or stop to ask. */
    show(wanted) {
      if (wanted === active) return;
      active = wanted;
      clearTimeout(waiting);
      if (active) refresh();
    },
    /** Ask again when shown. */
    forget() {
      active = false;
    },
  };
}

function summary(entities, lag) {
  if (!entities.length) return "No entity has been run yet: embeddings-pipeline run does it.";
  const behind = entities.filter((one) => one.problem || (one.coverage ?? 100) < 100).length;
  const names = counted(entities.length, "entity", "entities");
  const replica = lag ? `; the database is ${duration(lag)} behind its primary` : "";
  return `${names}, ${behind ? `${behind} not complete` : "all complete"}${replica}`;
}

function card(one, open, plans) {
  const name = `state-${one.entity}`;
  if (!plans.has(one.entity)) plans.set(one.entity, nextRun(one.entity));
  return element(
    "article",
    { className: "entity", "aria-labelledby": name },
    element(
      "div",
      { className: "coverage" },
      element("h2", { id: name }, label(one.entity)),
      element("progress", {
        max: 100,
        value: one.coverage ?? 0,
        ariaLabel: `Coverage of ${one.entity}`,
      }),
      element("span", {}, percent(one.coverage)),
    ),
    one.problem
      ? element("p", { className: "notice problem" }, one.problem)
      : [
          element("p", { className: "quiet" }, model(one)),
          element("dl", { className: "figures" }, figures(one).map(figure)),
        ],
    pending(one),
    failures(one, open),
    runs(one, open),
    plans.get(one.entity),
  );
}

/** A button that plans the next run of an entity, and the plan. */
function nextRun(entity) {
  const place = element("div", { role: "status" });
  const ask = async () => {
    place.replaceChildren(element("p", { className: "quiet" }, "Planning…"));
    try {
      place.replaceChildren(...planned(await plan(entity)));
    } catch (error) {
      const missing = error.status === 404 || error.status === 405;
      const text = missing ? "The service has no plans without the extra mcp." : error.message;
      place.replaceChildren(element("p", { className: "notice problem" }, text));
    }
  };
  return element(
    "div",
    { className: "plan" },
    button("Plan the next run", ask, { ariaLabel: `Plan the next run of ${entity}` }),
    place,
  );
}

function planned({ why, usd, seconds, ...counts }) {
  const rows = ["new", "changed", "deleted", "unchanged", "reuse", "encode", "tokens"];
  const reasons = Object.entries(why).map(([name, share]) => `${name} ${percent(100 * share)}`);
  return [
    element(
      "dl",
      { className: "figures" },
      [
        ...rows.map((name) => [label(name), whole(counts[name])]),
        ["Takes", seconds === null ? "unknown" : `about ${duration(seconds)}`],
        ["Costs", dollars(usd)],
      ].map(figure),
    ),
    reasons.length > 0 && element("p", { className: "quiet" }, reasons.join(", ")),
  ].filter(Boolean);
}

function model(one) {
  if (!one.model) return "Nothing is published yet.";
  return `${one.model}, ${one.dimension} dimensions, set ${one.vector_set}`;
}

function figures(one) {
  const recall = one.index.recall_at_10;
  const vectors = [one.vectors, one.chunks].map(whole);
  return [
    ["Rows", whole(one.rows)],
    ["Vectors", one.chunks === one.vectors ? vectors[0] : vectors.join(" of ")],
    ["Pending", whole(one.pending), one.pending > 0],
    ["Quarantined", whole(one.quarantined), one.quarantined > 0],
    [
      "Data lag",
      one.data_lag_seconds ? duration(one.data_lag_seconds) : "none",
      one.data_lag_seconds > 0,
    ],
    ["Cost", dollars(one.cost_usd)],
    ["Index", one.index.type],
    ["Recall@10", recall == null ? "not measured" : recall.toFixed(3)],
  ];
}

// `stands` marks what asks for attention
function figure([name, value, stands]) {
  return element(
    "div",
    { className: stands ? "stands" : "" },
    element("dt", {}, name),
    element("dd", {}, value),
  );
}

/** A bar for each partition that is not complete. */
function pending({ partitions }) {
  if (!partitions.length) return null;
  const most = Math.max(...partitions.map((part) => part.pending + part.quarantined));
  return element(
    "section",
    {},
    element("h3", {}, "Pending by partition"),
    element(
      "dl",
      { className: "partitions" },
      partitions.map(({ partition_key: key, pending: count, quarantined }) =>
        element(
          "div",
          {},
          element("dt", {}, key),
          element(
            "dd",
            {},
            element("meter", { ariaLabel: `Pending in ${key}`, max: most, value: count }),
            quarantined ? `${whole(count)}, ${whole(quarantined)} quarantined` : whole(count),
          ),
        ),
      ),
    ),
  );
}

/** The latest failures, each with its text. */
function failures({ entity, failures: all }, open) {
  const id = `failures-${entity}`;
  if (!all.length) return null;
  return element(
    "details",
    { id, open: open.has(id) },
    element("summary", {}, counted(all.length, "latest failure")),
    element(
      "ul",
      { className: "failures" },
      all.map((one) =>
        element(
          "li",
          {},
          element("p", {}, element("strong", {}, one.id), `: ${one.error}`),
          one.text && element("p", {}, one.text),
          element(
            "p",
            { className: "quiet" },
            `${one.stage}, ${counted(one.attempts, "attempt")}, ${moment(one.last_seen)}`,
          ),
        ),
      ),
    ),
  );
}

const COLUMNS = ["read", "encoded", "reused", "deleted", "quarantined"];

function runs(one, open) {
  const id = `runs-${one.entity}`;
  if (!one.runs.length) return null;
  const [last] = one.runs;
  const took = last.finished_at ? duration(last.seconds) : "not finished";
  const head = ["Started", "Took", ...COLUMNS.map(label), "Cost"];
  return [
    timeline(one),
    element(
      "details",
      { id, open: open.has(id) },
      element("summary", {}, `Last run ${moment(last.started_at)}, ${took}`),
      element(
        "table",
        {},
        element("caption", { className: "unseen" }, `Last runs of ${one.entity}`),
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            head.map((name) => element("th", { scope: "col" }, name)),
          ),
        ),
        element(
          "tbody",
          {},
          one.runs.map((run) => row(run, head)),
        ),
      ),
    ),
  ];
}

function row(run, head) {
  const cells = [
    moment(run.started_at),
    run.finished_at ? duration(run.seconds) : "not finished",
    ...COLUMNS.map((name) => whole(run[name])),
    dollars(run.cost_usd),
  ];
  return element(
    "tr",
    {},
    // a narrow screen shows the name of a column before its cell
    cells.map((cell, n) => element("td", { "data-name": head[n] }, cell)),
  );
}

// the size of a bar and of the whole drawing, in its own units
const [BAR, GAP, HEIGHT] = [10, 4, 48];

/** A bar for each run, the oldest first: texts encoded, and above them texts reused. */
function timeline({ entity, runs: all }) {
  const shown = [...all].reverse();
  const most = Math.max(1, ...shown.map((run) => run.encoded + run.reused));
  const size = (count) => (HEIGHT - 1) * (count / most);
  const [encoded, reused] = ["encoded", "reused"].map((name) =>
    shown.reduce((sum, run) => sum + run[name], 0),
  );
  return element(
    "figure",
    { className: "timeline" },
    drawing(
      "svg",
      {
        viewBox: `0 0 ${shown.length * (BAR + GAP)} ${HEIGHT}`,
        height: HEIGHT,
        role: "img",
        "aria-label": `Texts of the last runs of ${entity}`,
      },
      shown.map((run, n) => {
        const x = n * (BAR + GAP);
        const [low, high] = [size(run.encoded), size(run.reused)];
        return drawing(
          "g",
          {},
          drawing("title", {}, described(run)),
          drawing("rect", { class: "base", x, y: HEIGHT - 1, width: BAR, height: 1 }),
          bar("encoded", x, HEIGHT - 1 - low, low),
          bar("reused", x, HEIGHT - 1 - low - high, high),
        );
      }),
    ),
    element(
      "figcaption",
      { className: "quiet" },
      `${counted(shown.length, "run")}: `,
      element("span", { className: "encoded" }, `${whole(encoded)} texts encoded`),
      ", ",
      element("span", { className: "reused" }, `${whole(reused)} reused`),
    ),
  );
}

const bar = (name, x, y, height) => drawing("rect", { class: name, x, y, width: BAR, height });

const described = (run) =>
  `${moment(run.started_at)}: ${whole(run.encoded)} encoded, ${whole(run.reused)} reused, ` +
  `${duration(run.seconds)}, ${dollars(run.cost_usd)}`;
