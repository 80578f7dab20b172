/** The tab that searches: asks for what the address says, and draws the answer. */

import { kept, STEP } from "./address.js";
import { draw } from "./answers.js";
import * as api from "./api.js";
import { button, byId, element } from "./elements.js";
import { barsOf, counted, filterPanel } from "./filters.js";
import { searchForm } from "./form.js";
import { label, score } from "./format.js";
import { AMONG, isBrowsing, isFirst, orderChoice, sortOf } from "./order.js";
import { heading, hitList, reasons } from "./results.js";
import { someRows, welcome } from "./welcome.js";

const COMPARED = ["hybrid", "dense", "text"];
// rows among which a hit has a place by vector and by words
const BEST = 100;
// the most columns that the service counts in one answer, and the most rows that it lists
const MOST_FACETS = 10;
const MOST_LISTED = 100;
const SLOW_MS = 1_000;

/** `go(changes)` shows something else; `refused(problem, place, again, steps)` shows what failed. */
export function searchView({ go, refused }) {
  const results = byId("results");
  const form = searchForm(go);
  const filters = filterPanel(form.act, seek);
  const showOrder = orderChoice((changes) => form.act({ ...changes, count: STEP }));
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
      view.sort !== null &&
        error.status === 422 &&
        button("Without an order", () => form.act({ sort: null })),
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
    const counts = countsOf(answers[0]);
    filters.show(view, columns, { ...counts, ...withChosen(others, counts) });
    showOrder(view, columns);
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
    draw(shown, {
      ...{ view, entity: entity(), milliseconds, list, act },
      clear: filters.clear,
      typing: form.isTyping(),
    });
  }

  function nothingToSearch() {
    filters.show(view, [], {});
    byId("ordering").hidden = byId("request").hidden = true;
    byId("said").textContent = byId("fresh").textContent = "";
    byId("welcome").replaceChildren();
    const others = known.map((one) =>
      button(`Search ${label(one.entity).toLowerCase()}`, () =>
        form.act({ entity: one.entity, filters: {}, sort: null, like: null }),
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
    const sort = sortOf(view, entity().filters);
    const options = { filters: view.filters, total: true, ...counting(entity().filters) };
    if (isBrowsing(view)) return browse({ entity: view.entity, ...options, sort }, signal);
    Object.assign(options, { top_k: view.count }, sort && { sort: { ...sort, among: AMONG } });
    if (view.like !== null) {
      showRequest(api.similarPath(view.entity, view.like, options));
      return Promise.all([api.similar(view.entity, view.like, options, signal)]);
    }
    if (view.image !== null) {
      byId("request").hidden = true;
      return Promise.all([api.byImage(view.entity, kept(view.image), options, signal)]);
    }
    const ways = view.mode === "compare" ? COMPARED : [view.mode];
    const request = { entity: view.entity, query: view.query, ...options, highlight: true };
    const requests = ways.map((mode) => ({ ...request, mode, spelling: mode !== "dense" }));
    showRequest("search", requests[0]);
    return Promise.all(requests.map((one) => api.search(one, signal)));
  }

  /** Offer what is asked as a line for a shell. */
  function showRequest(path, body) {
    byId("request").hidden = false;
    byId("request").querySelector("code").textContent = api.asCurl(path, body);
  }

  /** Rows in the form of an answer, as many as are shown, page by page. */
  async function browse(request, signal) {
    const first = { ...request, top_k: Math.min(view.count, MOST_LISTED) };
    showRequest("rows", first);
    const counts = await api.rows(first, signal);
    const results = counts.rows;
    let last = results;
    while (results.length < view.count && last.length === MOST_LISTED) {
      const { filters: chosen, sort } = request;
      const page = { entity: view.entity, filters: chosen, sort, after: results.at(-1).id };
      ({ rows: last } = await api.rows({ ...page, top_k: MOST_LISTED }, signal));
      results.push(...last);
    }
    return [{ ...counts, results: results.slice(0, view.count).map(asHit) }];
  }

  /** What is counted of these columns in a request. */
  const counting = (columns) => ({
    facets: counted(columns).slice(0, MOST_FACETS),
    histograms: barsOf(columns).slice(0, MOST_FACETS),
  });

  /** The counts of each column whose filter is set, as they would be without this filter. */
  async function otherCounts(signal) {
    const chosen = entity().filters.filter(({ name }) => name in view.filters);
    const found = await countsWithout(chosen, {}, signal);
    return Object.assign({}, ...found);
  }

  /** The counts, with those of chosen values that are not among the most frequent ones. */
  function withChosen(others, counts) {
    const chosen = Object.entries(others).map(([name, { values, among }]) => {
      const listed = new Set(values.map((one) => one.value));
      const more = (counts[name]?.values ?? []).filter(
        (one) => typeof one === "object" && !listed.has(one.value),
      );
      return [name, { values: values.concat(more), among }];
    });
    return Object.fromEntries(chosen);
  }

  /** The values of a filter column that have a word which begins like this, with their counts. */
  async function seek(column, prefix) {
    const [found] = await countsWithout([column], { facet_prefix: prefix });
    return found?.[column.name]?.values ?? [];
  }

  /** For each of these columns its counts among the rows that all other filters leave. */
  async function countsWithout(columns, more, signal) {
    if (!columns.length) return [];
    const requests = columns.map((column) => {
      const { [column.name]: own, ...others } = view.filters;
      return { entity: view.entity, filters: others, total: true, ...counting([column]), ...more };
    });
    if (view.mode !== "text" || !view.query.trim() || view.like !== null || view.image !== null) {
      // every row is near to some degree, so that the filters alone decide
      const all = requests.map((request) => api.rows({ ...request, top_k: 0 }, signal));
      const found = await Promise.allSettled(all);
      // a wrong filter is told by the search itself
      return found.map(({ value }) => countsOf(value));
    }
    const { query } = view;
    const searches = requests.map((request) => ({
      ...{ ...request, query, mode: "text", spelling: true, top_k: 1 },
    }));
    const { results: found } = await api.searches(searches, signal).catch(() => ({ results: [] }));
    return found.map(({ answer }) => countsOf(answer));
  }

  async function explain(hit) {
    const { entity: name, query, filters: chosen } = view;
    const request = { entity: name, query, filters: chosen, top_k: BEST };
    if (view.like !== null || view.image !== null || !view.query.trim()) {
      return [element("p", {}, `Near in meaning: similarity ${score(hit.score)}.`)];
    }
    try {
      const found = await api.searches([
        { ...request, mode: "dense" },
        { ...request, mode: "text", spelling: true },
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
    if (like !== null && !headings.has(keyOf(like))) nameLike(like);
    const leave = () => {
      leaveLike();
      byId("query").focus();
    };
    place.replaceChildren(
      element("p", {}, "More like ", element("strong", {}, name)),
      button("Back to the search", leave),
    );
  }

  /** Call the row by its heading, which is not known where its address was opened. */
  async function nameLike(id) {
    const key = keyOf(id);
    headings.set(key, id);
    // a row that is gone is told by the search itself
    const found = await api.row(view.entity, id).catch(() => undefined);
    if (!found) return;
    headings.set(key, heading(asHit(found), entity()));
    if (view.like !== null && key === keyOf(view.like)) showLike();
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

/** The counts of each column in an answer, and among how many rows, where there are more. */
function countsOf(answer) {
  const { total, facets, histograms } = answer ?? {};
  const among = total && !total.exact ? total.rows : null;
  const counts = Object.entries({ ...facets, ...histograms });
  return Object.fromEntries(counts.map(([name, values]) => [name, { values, among }]));
}

const asHit = ({ texts, ...rest }) => ({ ...rest, text: texts[0] });
