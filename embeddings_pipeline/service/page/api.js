/** The service, as this page asks it. */

const PATIENCE_MS = 20_000;
const KEY = "search-api-key";

/** Why a request was not answered, in words; `status` is 0 where no answer came. */
export class Problem extends Error {
  constructor(status, title, detail) {
    super(detail);
    this.status = status;
    this.title = title;
  }
}

/** The key that is sent with each request, if any; it lives as long as the tab. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** What can be searched, with filters and their values. */
export const entities = () => ask("entities");

/** How far each entity is. */
export const stats = () => ask("stats");

/** Rows that answer a query. */
export const search = (request, signal) =>
  ask("search", { method: "POST", body: JSON.stringify(request), signal });

/** Rows like the row `id`. */
export function similar(entity, id, options, signal) {
  const path = `similar/${encodeURIComponent(entity)}/${encodeURIComponent(id)}`;
  return ask(`${path}?${narrowing(options)}`, { signal });
}

/** Rows like an image, which is sent as it is. */
export function byImage(entity, file, options, signal) {
  const path = `search/${encodeURIComponent(entity)}/image?${narrowing(options)}`;
  return ask(path, { method: "POST", body: file, signal });
}

const narrowing = ({ top_k, filters }) =>
  new URLSearchParams({ top_k, filters: JSON.stringify(filters) });

async function ask(path, { signal, ...options } = {}) {
  const late = AbortSignal.timeout(PATIENCE_MS);
  const headers = { Accept: "application/json" };
  // a file has a type of its own
  if (options.body) headers["Content-Type"] = options.body.type ?? "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  try {
    const either = signal ? AbortSignal.any([signal, late]) : late;
    const response = await fetch(path, { ...options, headers, signal: either });
    if (!response.ok) throw await problemOf(response);
    return await response.json();
  } catch (error) {
    if (error instanceof Problem || signal?.aborted) throw error;
    if (late.aborted) throw new Problem(0, "No answer in time", "The service took too long.");
    throw new Problem(0, "No answer", "The service cannot be reached.");
  }
}

async function problemOf(response) {
  const said = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  const again = wait ? ` (try again in ${wait} s)` : "";
  const title = said.title ?? (response.statusText || `Status ${response.status}`);
  return new Problem(
    response.status,
    title,
    (said.detail ?? "The service gave no reason.") + again,
  );
}
