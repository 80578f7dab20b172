/** What is shown, kept in the page's address: to share it, and for the back button. */

export const MODES = ["hybrid", "dense", "text", "compare"];
/** Results of one request. */
export const STEP = 10;
const MOST = 1000;
// the address follows typing after a pause: browsers limit how often it may change
const PAUSE_MS = 300;
// what is typed within so long of what was typed before is one entry of the history
const BURST_MS = 2_000;

// images to search by fit into no address: the history has their numbers
const files = new Map();
let waiting = null;
let typedAt = -Infinity;

/** Keep a file for as long as the page lives; the answer is its number. */
export function keep(file) {
  const number = Date.now();
  files.set(number, file);
  return number;
}

/** The file of a number; undefined where it was kept before the page was loaded again. */
export const kept = (number) => files.get(number);

/**
 * What the address says; where it says nothing or nonsense, the defaults. `of` is the entity whose
 * state is shown, and `sort` the column that orders rows, behind a `-` from the highest on.
 */
export function read() {
  drop();
  const said = new URLSearchParams(location.search);
  const mode = said.get("mode");
  const count = Number(said.get("count"));
  const image = history.state?.image;
  return {
    tab: said.get("tab") === "state" ? "state" : "search",
    of: said.get("of"),
    entity: said.get("entity"),
    query: said.get("q") ?? "",
    mode: MODES.includes(mode) ? mode : MODES[0],
    count: Number.isInteger(count / STEP) && count > 0 && count <= MOST ? count : STEP,
    filters: filtersOf(said.get("filters")),
    sort: said.get("sort"),
    like: said.get("like"),
    image: kept(image) ? image : null,
  };
}

/** Make the address say this; as a new entry of the history, or in place of the last. */
export function write(view, { replace = false } = {}) {
  waiting?.write();
  record(view, replace);
}

/** Make the address say this once nothing more is typed. */
export function writeAfterTyping(view) {
  drop();
  const write = () => {
    drop();
    const replace = performance.now() - typedAt < BURST_MS;
    typedAt = performance.now();
    record(view, replace);
  };
  waiting = { write, timer: setTimeout(write, PAUSE_MS) };
}

function drop() {
  clearTimeout(waiting?.timer);
  waiting = null;
}

function record(view, replace) {
  const address = addressOf(view);
  history[replace ? "replaceState" : "pushState"]({ image: view.image }, "", address);
}

/** The address that says this, for links. */
export function addressOf(view) {
  const said = new URLSearchParams();
  if (view.tab !== "search") {
    said.set("tab", view.tab);
    if (view.of) said.set("of", view.of);
  }
  if (view.entity) said.set("entity", view.entity);
  if (view.query) said.set("q", view.query);
  if (view.mode !== MODES[0]) said.set("mode", view.mode);
  if (view.count !== STEP) said.set("count", view.count);
  if (Object.keys(view.filters).length) said.set("filters", JSON.stringify(view.filters));
  if (view.sort !== null) said.set("sort", view.sort);
  if (view.like !== null) said.set("like", view.like);
  return said.size ? `?${said}` : location.pathname;
}

function filtersOf(text) {
  try {
    const filters = JSON.parse(text);
    return filters && typeof filters === "object" && !Array.isArray(filters) ? filters : {};
  } catch {
    return {};
  }
}
