/** The tab that searches: asks for what the address says, and draws the answer. */

import { kept } from "./address.js";
import { draw } from "./answers.js";
import * as api from "./api.js";
import { button, byId, element } from "./elements.js";
import { counted, filterPanel } from "./filters.js";
import { searchForm } from "./form.js";
import { label, score } from "./format.js";
import { heading, hitList, reasons } from "./results.js";
import { someRows, welcome } from "./welcome.js";

const COMPARED = ["hybrid", "dense", "text"];
// rows among which a hit has a place by vector and by words
const BEST = 100;
// the most columns that the service counts in one answer
const MOST_FACETS = 10;
const SLOW_MS = 1_000;

/** `go(changes)` shows something else; `refused(problem, place, again, steps)` shows what failed. */
export function searchView({ go, refused }) {
  const results = byId("results");
  const form = searchForm(go);
  const filters = filterPanel(form.act);
  const list = hitList({ like: (hit) => form.act({ like: hit.id }), explain });
  const headings = new Map();
  let view = null;
  let known = null;
  let learning = null;
  let asked = null;
  let running = new AbortController();
  let answeredAt = true;
  let sentAt = 0;

  async function run() {
    // a search that another one replaced took longer than the pace
    if (!answeredAt) form.answeredIn(1.5 * (performance.now() - sentAt));
    running.abort();
    running = new AbortController();
    const { signal } = running;
    answeredAt = false;
    sentAt = performance.now();
    results.ariaBusy = "true";
    const slow = setTimeout(() => (byId("said").textContent = "Searching…"), SLOW_MS);
    signal.addEventListener("abort", () => clearTimeout(slow));
    try {
      await prepare();
      if (!signal.aborted) await ask(signal);
    } catch (error) {
      if (signal.aborted) return;
      fail(error);
    } finally {
      clearTimeout(slow);
      if (!signal.aborted) {
        answeredAt = true;
        results.ariaBusy = "false";
      }
    }
  }

  function fail(error) {
    if (!(error instanceof api.Problem)) throw error;
    asked = null;
    byId("said").textContent = byId("fresh").textContent = "";
    byId("welcome").replaceChildren();
    const set = Object.keys(view.filters).length > 0;
    const steps = [
      set && error.status === 422 && button("Clear filters", filters.clear),
      error.status === 404 && view.like !== null && button("Back to the search", leaveLike),
    ];
    refused(error, results, run, steps);
  }

  async function prepare() {
    // the service may be slow, or ask for a key first
    showForm();
    if (known === null) {
      await learn();
      form.offer(known.map((one) => one.entity));
    }
    view = { ...view, entity: view.entity ?? known[0]?.entity ?? null };
    showForm();
    showLike();
  }

  /** Asks once, however often the address changes before the answer. */
  async function learn() {
    learning ??= api.entities();
    try {
      known = (await learning).entities;
    } finally {
      learning = null;
    }
  }

  const entity = () => known?.find((one) => one.entity === view.entity);
  const showForm = () => form.show(view, entity()?.images);

  async function ask(signal) {
    if (!entity()) {
      nothingToSearch();
      return;
    }
    const columns = entity().filters;
    const began = performance.now();
    const [answers, others] = await Promise.all([answersTo(signal), otherCounts(signal)]);
    // another search has begun meanwhile
    if (signal.aborted) return;
    const milliseconds = Math.round(performance.now() - began);
    form.answeredIn(milliseconds);
    for (const hit of answers.flatMap((one) => one.results)) {
      headings.set(keyOf(hit.id), heading(hit, entity()));
    }
    const inside = results.contains(document.activeElement);
    // after "More results" the first of these, else the first of all
    const next = document.activeElement.id === "more" ? results.querySelectorAll("li").length : 0;
    filters.show(view, columns, { ...answers[0].facets, ...others });
    show(answers, milliseconds);
    // what had the focus may be gone
    if (inside && !results.contains(document.activeElement)) {
      const all = results.querySelectorAll(".primary");
      (all[next] ?? byId("query")).focus();
    }
  }

  function show(answers, milliseconds) {
    const first = isFirst(view);
    const { act } = form;
    byId("welcome").replaceChildren(...(first ? [welcome(entity(), known, act)] : []));
    // rows taken at random tell more of an entity than those nearest to its name
    const rows = first && entity().examples.length ? someRows(entity()) : null;
    const shown = rows ? [{ ...answers[0], results: rows, sampled: true }] : answers;
    list.begin();
    draw(shown, { view, entity: entity(), milliseconds, list, act, clear: filters.clear });
  }

  function nothingToSearch() {
    filters.show(view, [], {});
    byId("said").textContent = byId("fresh").textContent = "";
    byId("welcome").replaceChildren();
    const others = known.map((one) =>
      button(`Search ${label(one.entity).toLowerCase()}`, () =>
        form.act({ entity: one.entity, filters: {}, like: null }),
      ),
    );
    results.replaceChildren(
      element(
        "div",
        { className: "notice", role: "alert" },
        element("h2", {}, known.length ? `There is no “${view.entity}”` : "Nothing to search yet"),
        element(
          "p",
          {},
          known.length
            ? "No entity of this name is published. These are:"
            : [
                "No entity is published. ",
                element("code", {}, "embeddings-pipeline run"),
                " does it.",
              ],
        ),
        element(
          "div",
          { className: "steps" },
          others.length ? others : button("Look again", again),
        ),
      ),
    );
  }

  function again() {
    forget();
    run();
  }

  function answersTo(signal) {
    const facets = counted(entity().filters).slice(0, MOST_FACETS);
    const options = { top_k: view.count, filters: view.filters, total: true, facets };
    if (view.like !== null) {
      return Promise.all([api.similar(view.entity, view.like, options, signal)]);
    }
    if (view.image !== null) {
      return Promise.all([api.byImage(view.entity, kept(view.image), options, signal)]);
    }
    const ways = view.mode === "compare" ? COMPARED : [view.mode];
    const request = { ...options, ...asking() };
    if (!view.query.trim()) return Promise.all([api.search(request, signal)]);
    return Promise.all(
      ways.map((mode) => api.search({ ...request, mode, highlight: true }, signal)),
    );
  }

  /** The query; without one, that which all rows answer. */
  function asking() {
    const query = view.query.trim() ? view.query : label(view.entity);
    return { entity: view.entity, query, mode: "dense" };
  }

  /** The counts of each column whose filter is set, as they would be without this filter. */
  async function otherCounts(signal) {
    const chosen = counted(entity().filters).filter((name) => name in view.filters);
    if (!chosen.length) return {};
    const mode = view.mode === "text" && view.query.trim() ? "text" : "dense";
    const requests = chosen.map((name) => {
      const { [name]: own, ...others } = view.filters;
      return { ...asking(), mode, top_k: 1, facets: [name], filters: others };
    });
    // a wrong filter is told by the search itself
    const { results: found } = await api.searches(requests, signal).catch(() => ({ results: [] }));
    return Object.assign({}, ...found.map(({ answer }) => answer?.facets ?? {}));
  }

  async function explain(hit) {
    const request = { entity: view.entity, query: view.query, filters: view.filters, top_k: BEST };
    if (view.like !== null || view.image !== null || !view.query.trim()) {
      return [element("p", {}, `Near in meaning: similarity ${score(hit.score)}.`)];
    }
    try {
      const found = await api.searches([
        { ...request, mode: "dense" },
        { ...request, mode: "text" },
      ]);
      const [dense, text] = found.results.map(({ answer, problem }) => {
        if (problem) throw new api.Problem(problem.status, problem.detail);
        return answer;
      });
      return reasons(hit, { dense, text, best: BEST });
    } catch (error) {
      return [element("p", { role: "alert" }, error.message)];
    }
  }

  function showLike() {
    const place = byId("like");
    const { like, image } = view;
    place.hidden = like === null && image === null;
    if (place.hidden) return;
    const name = like === null ? kept(image).name : (headings.get(keyOf(like)) ?? like);
    const leave = () => {
      leaveLike();
      byId("query").focus();
    };
    place.replaceChildren(
      element("p", {}, "More like ", element("strong", {}, name)),
      button("Back to the search", leave),
    );
  }

  function leaveLike() {
    if (view.like !== null) form.act({ like: null });
    else if (view.image !== null) form.act({ image: null });
  }

  const keyOf = (id) => JSON.stringify([view.entity, id]);

  function forget() {
    known = learning = null;
    asked = null;
  }

  return {
    /** Show what the address says; asks the service only where that is something else. */
    show(now) {
      const wanted = JSON.stringify({ ...now, tab: null });
      if (wanted === asked) return;
      view = now;
      asked = wanted;
      run();
    },
    leaveLike,
    /** Ask again, for all. */
    forget,
  };
}

const isFirst = ({ query, filters, like, image }) =>
  !query.trim() && Object.keys(filters).length === 0 && like === null && image === null;
