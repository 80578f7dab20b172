/** The service, as this page asks it. */

const PATIENCE_MS = 20_000;
const KEY = "search-api-key";

/**
 * Why a request was not answered, in words; `status` is 0 where no answer came. `wait` is after how
 * many seconds another try may succeed; null where none will.
 */
export class Problem extends Error {
  constructor(status, detail, wait = null) {
    super(detail);
    this.status = status;
    this.wait = wait;
  }
}

/** The key that is sent with each request, if any; it lives as long as the tab. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** What can be searched: fields, filters and examples of each entity. */
export const entities = () => ask("entities");

/** How far each entity is. */
export const stats = () => ask("stats");

/** What the next run of an entity would do and cost: the tool of agents of this name. */
export async function plan(entity) {
  const params = { name: "plan", arguments: { entity } };
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params });
  const { result, error } = await ask("mcp", { method: "POST", body });
  if (error || result.isError) throw new Problem(422, error?.message ?? result.content[0].text);
  return result.structuredContent;
}

/** Rows that answer a query. */
export const search = (request, signal) =>
  ask("search", { method: "POST", body: JSON.stringify(request), signal });

/** The outcomes of several searches, each an answer or a problem. */
export const searches = (requests, signal) =>
  ask("searches", { method: "POST", body: JSON.stringify({ searches: requests }), signal });

/** Rows in order, without a search. */
export const rows = (request, signal) =>
  ask("rows", { method: "POST", body: JSON.stringify(request), signal });

/** The row with this id, if there is one. */
export async function row(entity, id) {
  const path = `entities/${encodeURIComponent(entity)}/rows?${new URLSearchParams({ id })}`;
  return (await ask(path)).rows[0];
}

/** Rows like the row `id`. */
export const similar = (entity, id, options, signal) =>
  ask(similarPath(entity, id, options), { signal });

/** Where rows like the row `id` are asked for. */
export const similarPath = (entity, id, options) =>
  `similar/${encodeURIComponent(entity)}/${encodeURIComponent(id)}?${parameters(options)}`;

/** A request as a line for a shell; `body` goes as JSON, and a key is left for the reader to fill in. */
export function asCurl(path, body) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const headers = key.get() ? ["-H 'Authorization: Bearer KEY'"] : [];
  if (body) headers.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body))}`);
  return ["curl -s", quoted(new URL(path, document.baseURI).href), ...headers].join(" ");
}

/** Rows like an image, which is sent as it is. */
export function byImage(entity, file, options, signal) {
  const path = `search/${encodeURIComponent(entity)}/image?${parameters(options)}`;
  return ask(path, { method: "POST", body: file, signal });
}

function parameters({ filters, facets, histograms, sort, ...rest }) {
  const plain = new URLSearchParams({
    ...rest,
    filters: JSON.stringify(filters),
    histograms: JSON.stringify(histograms),
    ...(sort && { sort: sort.by, order: sort.order, among: sort.among }),
  });
  for (const column of facets) plain.append("facets", column);
  return plain;
}

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
    if (late.aborted) throw new Problem(0, "The service took too long to answer.", 2);
    throw new Problem(0, "The service cannot be reached.", 2);
  }
}

async function problemOf(response) {
  const { detail } = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  return new Problem(
    response.status,
    detail ?? "The service gave no reason.",
    wait === null ? null : Number(wait) || 2,
  );
}
