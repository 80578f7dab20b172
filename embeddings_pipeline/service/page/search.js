/** The tab that searches: asks for what the address says, and draws the answer. */

import { draw } from "./answers.js";
import * as api from "./api.js";
import { byId, element } from "./elements.js";
import { filterPanel } from "./filters.js";
import { searchForm } from "./form.js";
import { kept } from "./images.js";
import { isImage } from "./results.js";

const COMPARED = ["hybrid", "dense", "text"];

/** `go(changes)` shows something else; `refused(problem, place, again)` shows what went wrong. */
export function searchView({ go, refused }) {
  const results = byId("results");
  const form = searchForm(go);
  const filters = filterPanel(form.act);
  const texts = new Map();
  let view = null;
  let known = null;
  let learning = null;
  let asked = null;
  let running = new AbortController();

  async function run() {
    running.abort();
    running = new AbortController();
    const { signal } = running;
    results.ariaBusy = "true";
    try {
      await prepare();
      if (!signal.aborted) await ask(signal);
    } catch (error) {
      if (signal.aborted) return;
      asked = null;
      byId("said").textContent = byId("fresh").textContent = "";
      refused(error, results, run);
    } finally {
      if (!signal.aborted) results.ariaBusy = "false";
    }
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
    filters.show(view, entity()?.filters ?? []);
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
    const started = performance.now();
    const answers = await answersTo(view, signal);
    // another search has begun meanwhile
    if (signal.aborted) return;
    const milliseconds = Math.round(performance.now() - started);
    for (const hit of answers.flatMap((one) => one.results)) texts.set(keyOf(hit.id), briefly(hit));
    const inside = results.contains(document.activeElement);
    const like = (hit) => form.act({ like: hit.id });
    draw(answers, { view, known, milliseconds, like });
    if (inside) (results.querySelector("button.like") ?? byId("query")).focus();
  }

  function showLike() {
    const place = byId("like");
    const { like, image } = view;
    place.hidden = like === null && image === null;
    if (place.hidden) return;
    const [name, text] =
      like === null ? [kept(image).name, ""] : [like, texts.get(keyOf(like)) ?? ""];
    const leave = () => {
      leaveLike();
      byId("query").focus();
    };
    place.replaceChildren(
      element("p", {}, "More like ", element("strong", {}, name), ` ${text}`),
      element("button", { type: "button", onclick: leave }, "Back to the search"),
    );
  }

  function leaveLike() {
    if (view.like !== null) form.act({ like: null });
    else if (view.image !== null) form.act({ image: null });
  }

  const keyOf = (id) => JSON.stringify([view.entity, id]);

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
    forget() {
      known = learning = null;
      asked = null;
    },
  };
}

// a data: address may have a million characters
const briefly = ({ text }) => (isImage(text) ? "" : text.slice(0, 200));

function answersTo(view, signal) {
  const options = { top_k: view.count, filters: view.filters };
  if (view.like !== null) {
    return Promise.all([api.similar(view.entity, view.like, options, signal)]);
  }
  if (view.image !== null) {
    return Promise.all([api.byImage(view.entity, kept(view.image), options, signal)]);
  }
  if (!view.entity || !view.query.trim()) return [];
  const ways = view.mode === "compare" ? COMPARED : [view.mode];
  const request = { ...options, entity: view.entity, query: view.query };
  return Promise.all(ways.map((mode) => api.search({ ...request, mode }, signal)));
}
