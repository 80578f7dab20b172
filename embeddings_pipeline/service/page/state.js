/** The tab that shows how far the entities are, all of them or one on a page of its own. */

import { addressOf } from "./address.js";
import * as api from "./api.js";
import { bars } from "./charts.js";
import { button, byId, element } from "./elements.js";
import { described, entityPage } from "./entity.js";
import { counted, dollars, duration, label, moment, percent, whole } from "./format.js";

const AGAIN_MS = 10_000;

/** Asks again from time to time, while it is in view. `go(changes)` shows something else. */
export function stateView({ go, refused }) {
  const place = byId("entities");
  const page = entityPage(linkTo(go));
  let view = null;
  let found = null;
  let drawn = "";
  let waiting;

  const active = () => view?.tab === "state";

  async function refresh() {
    clearTimeout(waiting);
    try {
      found = await api.stats();
      if (!active()) return;
      draw();
    } catch (error) {
      if (!active()) return;
      drawn = "";
      byId("counted").textContent = "";
      refused(error, place, refresh);
      // asked again with a key, or by `refused`
      if (error.status === 401 || error.wait !== null) return;
    }
    waiting = setTimeout(refresh, AGAIN_MS);
  }

  function draw() {
    const { entities, replica_lag_seconds: lag } = found;
    const text = JSON.stringify([view.of, entities, lag]);
    if (text === drawn) return;
    drawn = text;
    const one = entities.find(({ entity }) => entity === view.of);
    byId("counted").textContent = view.of ? "" : summary(entities, lag);
    if (one) page.draw(place, one);
    else if (view.of) place.replaceChildren(unknown(view.of, entities));
    else place.replaceChildren(...(entities.length ? [overview(entities, linkTo(go))] : []));
  }

  const unknown = (name, entities) =>
    element(
      "div",
      { className: "notice", role: "alert" },
      element("h2", {}, `There is no “${name}”`),
      element(
        "div",
        { className: "steps" },
        entities.map(({ entity }) => button(label(entity), () => go({ of: entity }))),
        button("All entities", () => go({ of: null })),
      ),
    );

  document.addEventListener("visibilitychange", () => {
    clearTimeout(waiting);
    if (active() && !document.hidden) refresh();
  });

  return {
    /** Show what the address says; begin or stop to ask. */
    show(now) {
      const before = view;
      view = now;
      if (!active()) return clearTimeout(waiting);
      if (found && before?.of !== view.of) draw();
      if (before?.tab !== "state") refresh();
      return undefined;
    },
    /** Ask again when shown. */
    forget() {
      view = null;
    },
  };
}

/** Links that show something else without loading the page again. */
const linkTo = (go) => (text, changes) =>
  element(
    "a",
    {
      href: addressOf({ ...PLAIN, ...changes }),
      onclick: (event) => {
        // another tab is opened by the browser
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        go(changes);
      },
    },
    text,
  );
const PLAIN = {
  ...{ tab: "search", of: null, entity: null, query: "", mode: "hybrid", count: 10, filters: {} },
  ...{ sort: null, like: null },
};

function summary(entities, lag) {
  if (!entities.length) return "No entity has been run yet: embeddings-pipeline run does it.";
  const behind = entities.filter((one) => one.problem || (one.coverage ?? 100) < 100).length;
  const names = counted(entities.length, "entity", "entities");
  const replica = lag ? `; the database is ${duration(lag)} behind its primary` : "";
  return `${names}, ${behind ? `${behind} not complete` : "all complete"}${replica}`;
}

const HEAD = [
  ...["Entity", "Coverage", "Rows", "Pending", "Quarantined", "Data lag", "Recall@10"],
  ...["Last run", "Runs", "Cost"],
];

/** A row for each entity, with a link to its page. */
function overview(entities, link) {
  return element(
    "table",
    { className: "overview" },
    element("caption", { className: "unseen" }, "Entities"),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        HEAD.map((name) => element("th", { scope: "col" }, name)),
      ),
    ),
    element(
      "tbody",
      {},
      entities.map((one) => {
        const name = element(
          "th",
          { scope: "row" },
          link(label(one.entity), { tab: "state", of: one.entity }),
        );
        const cells = one.problem
          ? [element("td", { colSpan: HEAD.length - 1, className: "stands" }, one.problem)]
          : figures(one).map(([content, stands], n) =>
              element(
                "td",
                // a narrow screen shows the name of a column before its cell
                { "data-name": HEAD[n + 1], className: stands ? "stands" : "" },
                content,
              ),
            );
        return element("tr", {}, name, cells);
      }),
    ),
  );
}

function figures(one) {
  const [last] = one.runs;
  const runs = [...one.runs].reverse();
  const recall = one.index.recall_at_10;
  return [
    [
      element(
        "span",
        { className: "share" },
        element("progress", {
          max: 100,
          value: one.coverage ?? 0,
          ariaLabel: `Coverage of ${one.entity}`,
        }),
        percent(one.coverage),
      ),
    ],
    [whole(one.rows)],
    [whole(one.pending), one.pending > 0],
    [whole(one.quarantined), one.quarantined > 0],
    [one.data_lag_seconds ? duration(one.data_lag_seconds) : "none", one.data_lag_seconds > 0],
    [recall == null ? "not measured" : recall.toFixed(3), recall < one.index.target],
    [last ? moment(last.started_at) : "none"],
    [
      runs.length
        ? bars(
            [
              ["encoded", runs.map((run) => run.encoded)],
              ["reused", runs.map((run) => run.reused)],
            ],
            runs.map(described),
            `Texts of the last runs of ${one.entity}`,
          )
        : "none",
    ],
    [dollars(one.cost_usd)],
  ];
}
