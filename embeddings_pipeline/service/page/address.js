/** What is shown, kept in the page's address: to share it, and for the back button. */

import { kept } from "./images.js";

export const MODES = ["hybrid", "dense", "text", "compare"];
const COUNTS = [10, 20, 50];

/** What the address says; where it says nothing or nonsense, the defaults. */
export function read() {
  const said = new URLSearchParams(location.search);
  const mode = said.get("mode");
  const count = Number(said.get("count"));
  const image = history.state?.image;
  return {
    tab: said.get("tab") === "state" ? "state" : "search",
    entity: said.get("entity"),
    query: said.get("q") ?? "",
    mode: MODES.includes(mode) ? mode : MODES[0],
    count: COUNTS.includes(count) ? count : COUNTS[0],
    filters: filtersOf(said.get("filters")),
    like: said.get("like"),
    image: kept(image) ? image : null,
  };
}

/** Make the address say this; as a new entry of the history, or in place of the last. */
export function write(view, { replace = false } = {}) {
  const said = new URLSearchParams();
  if (view.tab !== "search") said.set("tab", view.tab);
  if (view.entity) said.set("entity", view.entity);
  if (view.query) said.set("q", view.query);
  if (view.mode !== MODES[0]) said.set("mode", view.mode);
  if (view.count !== COUNTS[0]) said.set("count", view.count);
  if (Object.keys(view.filters).length) said.set("filters", JSON.stringify(view.filters));
  if (view.like !== null) said.set("like", view.like);
  const address = said.size ? `?${said}` : location.pathname;
  history[replace ? "replaceState" : "pushState"]({ image: view.image }, "", address);
}

function filtersOf(text) {
  try {
    const filters = JSON.parse(text);
    return filters && typeof filters === "object" && !Array.isArray(filters) ? filters : {};
  } catch {
    return {};
  }
}
