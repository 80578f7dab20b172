/** The tab that shows how far each entity is. */

import { stats } from "./api.js";
import { byId, element } from "./elements.js";
import { counted, dollars, duration, percent, whole } from "./format.js";

const AGAIN_MS = 10_000;
const TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** Asks again from time to time, while it is in view. */
export function stateView({ refused }) {
  const place = byId("entities");
  let drawn = "";
  let waiting;
  let active = false;

  async function refresh() {
    clearTimeout(waiting);
    try {
      const { entities } = await stats();
      if (!active) return;
      draw(entities);
    } catch (error) {
      if (!active) return;
      // said once, however often it fails
      if (drawn !== error.message) {
        byId("counted").textContent = "";
        refused(error, place, refresh);
      }
      drawn = error.message;
      if (error.status === 401) return;
    }
    waiting = setTimeout(refresh, AGAIN_MS);
  }

  function draw(entities) {
    const text = JSON.stringify(entities);
    if (text === drawn) return;
    drawn = text;
    const open = new Set([...place.querySelectorAll("details[open]")].map((one) => one.id));
    byId("counted").textContent = summary(entities);
    place.replaceChildren(...entities.map((one) => card(one, open)));
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
    /** Ask anew when shown. */
    forget() {
      active = false;
    },
  };
}

function summary(entities) {
  if (!entities.length) return "No entity has been run yet: embeddings-pipeline run does it.";
  const behind = entities.filter((one) => (one.coverage ?? 100) < 100).length;
  const names = counted(entities.length, "entity").replace(/entitys$/, "entities");
  return behind ? `${names}, ${behind} not complete` : `${names}, all complete`;
}

function card(one, open) {
  const name = `state-${one.entity}`;
  return element(
    "article",
    { className: "entity", "aria-labelledby": name },
    element(
      "div",
      { className: "coverage" },
      element("h2", { id: name }, one.entity),
      element("progress", {
        max: 100,
        value: one.coverage ?? 0,
        ariaLabel: `Coverage of ${one.entity}`,
      }),
      element("span", {}, percent(one.coverage)),
    ),
    element("p", { className: "quiet" }, model(one)),
    element("dl", { className: "figures" }, figures(one).map(figure)),
    runs(one, open),
  );
}

function model(one) {
  if (!one.model) return "Nothing is published yet.";
  return `${one.model}, ${one.dimension} dimensions, set ${one.vector_set}`;
}

function figures(one) {
  const recall = one.index.recall_at_10;
  return [
    ["Rows", whole(one.rows)],
    [
      "Vectors",
      one.chunks === one.vectors
        ? whole(one.vectors)
        : `${whole(one.vectors)} of ${whole(one.chunks)}`,
    ],
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

const COLUMNS = ["read", "encoded", "reused", "deleted", "quarantined"];

function runs(one, open) {
  const id = `runs-${one.entity}`;
  if (!one.runs.length) return null;
  const last = one.runs[0];
  const when = TIME.format(new Date(last.started_at));
  const said = last.finished_at
    ? `Last run ${when}, ${duration(last.seconds)}`
    : `Last run ${when}, not finished`;
  const head = ["started", "took", ...COLUMNS, "cost"];
  return element(
    "details",
    { id, open: open.has(id) },
    element("summary", {}, said),
    element(
      "div",
      { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `Last runs of ${one.entity}` },
      element(
        "table",
        {},
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            head.map((name) => element("th", { scope: "col" }, name)),
          ),
        ),
        element("tbody", {}, one.runs.map(row)),
      ),
    ),
  );
}

function row(run) {
  const cells = [
    TIME.format(new Date(run.started_at)),
    run.finished_at ? duration(run.seconds) : "not finished",
    ...COLUMNS.map((name) => whole(run[name])),
    dollars(run.cost_usd),
  ];
  return element(
    "tr",
    {},
    cells.map((cell) => element("td", {}, cell)),
  );
}
