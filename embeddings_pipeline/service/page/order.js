/** The order of rows: by a column where they are browsed, and also of the best that a search finds. */

import { byId, element } from "./elements.js";
import { kindOf, label } from "./format.js";

/** Rows by their ids, as `sort` in the address. */
export const BY_ID = "id";
/** How many of the best rows of a search are put in the order of a column. */
export const AMONG = 100;

const WORDS = {
  number: ["lowest first", "highest first"],
  date: ["oldest first", "newest first"],
  time: ["oldest first", "newest first"],
  text: ["A to Z", "Z to A"],
};

/** Whether rows are shown without a search. */
export const isBrowsing = ({ query, like, image }) =>
  !query.trim() && like === null && image === null;

/** Whether the view shows a sample of the rows. */
export const isFirst = (view) =>
  isBrowsing(view) && Object.keys(view.filters).length === 0 && view.sort === null;

/** The `sort` of a request; null for the order that rows have without one. */
export function sortOf(view, columns) {
  const { sort } = view;
  if (sort === null || isCompared(view)) return null;
  const by = sort.replace(/^-/, "");
  if (by === BY_ID && !columns.some(({ name }) => name === BY_ID)) return null;
  return { by, order: sort.startsWith("-") ? "desc" : "asc" };
}

/** Whether the best rows of a search are put in the order of a column. */
export const isOrdered = (view, columns) => !isBrowsing(view) && sortOf(view, columns) !== null;

// ways to rank beside each other have no other order
const isCompared = (view) => view.mode === "compare" && !isBrowsing(view);

/** Offer the orders of a view; `act` is called with what is chosen. */
export function orderChoice(act) {
  const choice = byId("order");
  choice.onchange = () => act({ sort: choice.value || null });
  return (view, columns) => {
    byId("ordering").hidden = isCompared(view);
    const first = isBrowsing(view)
      ? Object.keys(view.filters).length
        ? [["", "By ID"]]
        : [
            ["", "A sample"],
            [BY_ID, "By ID"],
          ]
      : [["", "Best first"]];
    const sortable = columns.filter(({ type }) => !/\[\]$|^boolean|^json/.test(type));
    const options = sortable.flatMap(({ name, type }) =>
      WORDS[kindOf(type)].map((words, n) => [`${n ? "-" : ""}${name}`, `${label(name)}, ${words}`]),
    );
    choice.replaceChildren(
      ...[...first, ...options].map(([value, text]) => element("option", { value }, text)),
    );
    choice.value = view.sort ?? "";
    // by id is how filtered rows come without an order
    if (choice.selectedIndex < 0) choice.value = "";
  };
}
