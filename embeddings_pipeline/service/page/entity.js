/** The page of one entity: how far it is, what its runs did, and how well it is searched. */

import * as api from "./api.js";
import { bars, line } from "./charts.js";
import { button, element } from "./elements.js";
import { counted, dollars, duration, label, moment, percent, whole } from "./format.js";

/** Draws the state of an entity in a place. `link(text, changes)` makes a link within the page. */
export function entityPage(link) {
  // what was planned and what is declared stay while the rest is drawn again
  const kept = new Map();

  return {
    draw(place, one) {
      const open = new Set([...place.querySelectorAll("details[open]")].map(({ id }) => id));
      if (!kept.has(one.entity)) {
        kept.set(one.entity, { plan: nextRun(one.entity), declared: declared(one.entity) });
      }
      place.replaceChildren(page(one, open, kept.get(one.entity), link));
    },
  };
}

function page(one, open, { plan, declared: about }, link) {
  const name = label(one.entity);
  return element(
    "article",
    { className: "entity", "aria-labelledby": "entity-name" },
    element(
      "nav",
      { className: "quiet", ariaLabel: "Where this is" },
      link("All entities", { tab: "state", of: null }),
      one.vector_set !== null && [
        " · ",
        link(`Search ${name.toLowerCase()}`, {
          ...{ tab: "search", entity: one.entity, query: "", filters: {}, sort: null, like: null },
        }),
      ],
    ),
    element(
      "div",
      { className: "coverage" },
      element("h2", { id: "entity-name" }, name),
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
    quality(one),
    plan,
    about,
  );
}

const part = (title, ...content) => element("section", {}, element("h3", {}, title), content);

function model(one) {
  if (!one.model) return "Nothing is published yet.";
  return `${one.model}, ${one.dimension} dimensions, set ${one.vector_set}`;
}

function figures(one) {
  const { recall_at_10: recall, target } = one.index;
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
    ["Recall@10", recall == null ? "not measured" : recall.toFixed(3), recall < target],
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

const COLUMNS = ["read", "encoded", "reused", "deleted", "quarantined"];

/** What a run did, in one line. */
export const described = (run) =>
  `${moment(run.started_at)}: ${whole(run.encoded)} encoded, ${whole(run.reused)} reused, ` +
  `${duration(run.seconds)}, ${dollars(run.cost_usd)}`;

/** The last runs: bars of texts, seconds and dollars below one another, and a table. */
function runs({ entity, runs: all }, open) {
  if (!all.length) return null;
  const [last] = all;
  const shown = [...all].reverse();
  const of = (name) => shown.map((run) => Number(run[name]));
  const sum = (name) => of(name).reduce((total, value) => total + value, 0);
  const titles = shown.map(described);
  const series = [
    [
      "Texts",
      [
        element("span", { className: "key encoded" }, `${whole(sum("encoded"))} encoded`),
        element("span", { className: "key reused" }, `${whole(sum("reused"))} reused`),
      ],
      ["encoded", "reused"],
    ],
    ["Seconds", `longest ${duration(Math.max(...of("seconds")))}`, ["seconds"]],
    ["Dollars", `${dollars(sum("cost_usd"))} in all`, ["cost_usd"]],
  ];
  return part(
    shown.length > 1 ? `Last ${shown.length} runs` : "Last run",
    element(
      "div",
      { className: "series" },
      series.map(([title, caption, names]) => [
        element(
          "div",
          {},
          element("p", {}, title),
          element("p", { className: "quiet" }, caption),
        ),
        names.some((name) => sum(name) > 0)
          ? bars(
              names.map((name) => [name, of(name)]),
              titles,
              `${title} of the last runs of ${entity}`,
            )
          : element("span", {}),
      ]),
      element("span", {}),
      element("p", { className: "quiet" }, between(shown[0].started_at, last.started_at)),
    ),
    table(entity, all, open),
  );
}

function table(entity, all, open) {
  const id = `runs-${entity}`;
  const [last] = all;
  const took = last.finished_at ? duration(last.seconds) : "not finished";
  const head = ["Started", "Took", ...COLUMNS.map(label), "Cost"];
  return element(
    "details",
    { id, open: open.has(id) },
    element("summary", {}, `Last run ${moment(last.started_at)}, ${took}`),
    element(
      "table",
      {},
      element("caption", { className: "unseen" }, `Last runs of ${entity}`),
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
        all.map((run) => row(run, head)),
      ),
    ),
  );
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

const between = (first, last) =>
  first === last ? moment(first) : `${moment(first)} to ${moment(last)}`;

/** Recall of the index and the quality of golden queries, as they were measured. */
function quality({ entity, quality: all, index, ndcg_target: bound }) {
  const measures = [
    ["Recall@10", "recall_at_10", index.target],
    ["nDCG@10", "ndcg_at_10", bound],
  ].map(([name, key, target]) => {
    const points = all.filter((one) => one[key] !== null).map((one) => [one.measured_at, one[key]]);
    return { name, target, points: points.reverse() };
  });
  const shown = measures.filter(({ points }) => points.length);
  if (!shown.length) return null;
  return part(
    "Quality over time",
    shown.map(({ name, target, points }) =>
      element(
        "div",
        { className: "series" },
        element(
          "div",
          {},
          element("p", {}, `${name} ${points.at(-1)[1].toFixed(3)}`),
          element(
            "p",
            { className: "quiet" },
            `${counted(points.length, "measurement")}`,
            target !== null && `, declared ${target}`,
          ),
        ),
        line(points, target, `${name} of ${entity}`),
        element("span", {}),
        element("p", { className: "quiet" }, between(points[0][0], points.at(-1)[0])),
      ),
    ),
  );
}

/** A bar for each partition that is not complete. */
function pending({ partitions }) {
  if (!partitions.length) return null;
  const most = Math.max(...partitions.map((one) => one.pending + one.quarantined));
  return part(
    "Pending by partition",
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

/** A button that plans the next run of an entity, and the plan. */
function nextRun(entity) {
  const place = element("div", { role: "status" });
  const ask = async () => {
    place.replaceChildren(element("p", { className: "quiet" }, "Planning…"));
    try {
      place.replaceChildren(...planned(await api.plan(entity)));
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

/** What can be searched in an entity, once the service has said it. */
function declared(name) {
  const place = element("div", { className: "declared" });
  api
    .entities()
    .then(({ entities }) => entities.find(({ entity }) => entity === name))
    .then((one) => one && place.replaceChildren(about(one)))
    // the state beside it says what is wrong
    .catch(() => null);
  return place;
}

const METRICS = { cosine: "cosine similarity", l2: "Euclidean distance", ip: "inner product" };

function about({ metric, language, filters, fields, images }) {
  const chosen = new Set(filters.map((one) => one.name));
  return part(
    "What is searched",
    element(
      "p",
      { className: "quiet" },
      `${images ? "Images" : `Words in ${label(language)}`} · ${METRICS[metric]}`,
    ),
    element(
      "dl",
      { className: "columns-of" },
      Object.entries(fields).map(([column, type]) =>
        element(
          "div",
          {},
          element("dt", {}, column),
          element("dd", {}, chosen.has(column) ? `${type}, filter` : type),
        ),
      ),
    ),
  );
}
