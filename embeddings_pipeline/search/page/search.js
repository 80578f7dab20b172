/** The tab that searches: its controls, and one request after another. */

import * as api from "./api.js";
import { byId, element } from "./elements.js";
import { facets } from "./facets.js";
import { draw } from "./answers.js";

const PAUSE_MS = 200;
// what is typed within so long of what was typed before is one entry of the history
const BURST_MS = 2_000;

const COMPARED = ["hybrid", "dense", "text"];

/** `go(changes)` shows something else; `refused(problem, place, again)` shows what went wrong. */
export function searchView({ go, refused }) {
  const [query, entity, count] = ["query", "entity", "count"].map(byId);
  const results = byId("results");
  const modes = [...document.querySelectorAll("[name=mode]")];
  const texts = new Map();
  let view = null;
  let known = null;
  let asked = "";
  let drawn = "";
  let running = new AbortController();
  let typing;
  let typedAt = -Infinity;

  const act = (changes, options) => go({ query: query.value, ...changes }, options);

  function typed() {
    const replace = performance.now() - typedAt < BURST_MS;
    typedAt = performance.now();
    act({ like: null }, { replace });
  }

  query.oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(typed, PAUSE_MS);
  };
  byId("ask").onsubmit = (event) => {
    event.preventDefault();
    typed();
  };
  entity.onchange = () => act({ entity: entity.value, filters: {}, like: null });
  count.onchange = () => act({ count: Number(count.value) });
  for (const mode of modes) mode.onchange = () => act({ mode: mode.value });
  byId("facets").onsubmit = (event) => event.preventDefault();
  keepOpenWhereThereIsRoom(byId("filters"));

  function controls() {
    clearTimeout(typing);
    if (query.value !== view.query) query.value = view.query;
    entity.value = view.entity;
    count.value = String(view.count);
    for (const mode of modes) mode.checked = mode.value === view.mode;
    byId("modes").disabled = view.like !== null;
    const chosen = Object.keys(view.filters).length;
    byId("filters").querySelector("summary").textContent = chosen ? `Filters (${chosen})` : "Filters";
    byId("clear")?.toggleAttribute("hidden", !chosen);
    drawFacets();
    drawLike();
  }

  function drawFacets() {
    const wanted = JSON.stringify([view.entity, view.filters]);
    // a control that was just used stays as it is, and keeps the focus
    if (wanted === drawn) return;
    drawn = wanted;
    const columns = known.find((one) => one.entity === view.entity)?.filters ?? [];
    const clear = element("button", { type: "button", id: "clear", hidden: wanted.endsWith("{}]") }, "Clear filters");
    clear.onclick = () => {
      act({ filters: {} });
      byId("facets").querySelector("input")?.focus();
    };
    byId("facets").replaceChildren(...facets(columns, view.filters, choose), clear);
    byId("filters").hidden = columns.length === 0;
  }

  function choose(column, wanted) {
    const filters = { ...view.filters };
    if (wanted === undefined) delete filters[column];
    else filters[column] = wanted;
    drawn = JSON.stringify([view.entity, filters]);
    act({ filters });
  }

  function drawLike() {
    const place = byId("like");
    place.hidden = view.like === null;
    if (place.hidden) return;
    const text = texts.get(`${view.entity}/${view.like}`) ?? "";
    place.replaceChildren(
      element("p", {}, "More like ", element("strong", {}, view.like), element("span", { className: "quiet" }, ` ${text}`)),
      element("button", { type: "button", onclick: () => act({ like: null }) }, "Back to the search"),
    );
  }

  async function load() {
    known = (await api.entities()).entities;
    entity.replaceChildren(...known.map((one) => element("option", {}, one.entity)));
    drawn = "";
  }

  async function run() {
    running.abort();
    running = new AbortController();
    const { signal } = running;
    results.ariaBusy = "true";
    try {
      if (known === null) await load();
      if (signal.aborted) return;
      if (view.entity === null && known.length) view = { ...view, entity: known[0].entity };
      controls();
      const started = performance.now();
      const answers = await answersTo(signal);
      if (signal.aborted) return;
      const milliseconds = Math.round(performance.now() - started);
      const inside = results.contains(document.activeElement);
      for (const hit of answers.flatMap((one) => one.results)) {
        texts.set(`${view.entity}/${hit.id}`, hit.text);
      }
      draw(answers, { view, known, milliseconds, like: (hit) => act({ like: hit.id }) });
      if (inside) (results.querySelector("button.like") ?? query).focus();
    } catch (error) {
      if (signal.aborted) return;
      asked = "";
      byId("said").textContent = "";
      byId("fresh").textContent = "";
      refused(error, results, () => run());
    } finally {
      if (!signal.aborted) results.ariaBusy = "false";
    }
  }

  function answersTo(signal) {
    const options = { top_k: view.count, filters: view.filters };
    if (view.like !== null) return Promise.all([api.similar(view.entity, view.like, options, signal)]);
    if (!view.entity || !view.query.trim()) return [];
    const ways = view.mode === "compare" ? COMPARED : [view.mode];
    const request = { ...options, entity: view.entity, query: view.query };
    return Promise.all(ways.map((mode) => api.search({ ...request, mode }, signal)));
  }

  return {
    /** Show what the address says; asks the service only where that is something else. */
    show(now) {
      view = now;
      const wanted = JSON.stringify({ ...now, tab: null });
      if (wanted === asked) return;
      asked = wanted;
      run();
    },
    /** Ask again, for all. */
    forget() {
      known = null;
      asked = "";
    },
  };
}

function keepOpenWhereThereIsRoom(details) {
  const room = matchMedia("(min-width: 60rem)");
  const follow = () => (details.open = room.matches);
  room.addEventListener("change", follow);
  follow();
}
