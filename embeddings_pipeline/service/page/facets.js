/** Filters, from the columns of an entity and the values that these have. */

import { element } from "./elements.js";
import { plain, whole } from "./format.js";

const NUMBER = /^(smallint|integer|bigint|numeric|real|double precision)/;

/**
 * Controls for the filter columns, showing what `filters` says.
 * `choose(column, wanted)` is called with what the service takes; undefined is no filter.
 */
export function facets(columns, filters, choose) {
  return columns.map((column) => {
    const pick = (wanted) => choose(column.name, wanted);
    return element(
      "fieldset",
      {},
      element("legend", {}, column.name),
      control(column, filters[column.name], pick),
    );
  });
}

function control(column, wanted, pick) {
  const input = inputType(column.type);
  if (input) return range(column, input, wanted, pick);
  return column.values ? choices(column, wanted, pick) : exactly(column, wanted, pick);
}

function inputType(type) {
  // a filter on a list takes one of its elements
  if (type.endsWith("[]")) return null;
  if (NUMBER.test(type)) return "number";
  if (type === "date") return "date";
  return type.startsWith("timestamp") ? "datetime-local" : null;
}

function choices(column, wanted, pick) {
  const chosen = new Set(Array.isArray(wanted) ? wanted : wanted === undefined ? [] : [wanted]);
  const toggle = (value, on) => {
    if (on) chosen.add(value);
    else chosen.delete(value);
    pick(chosen.size ? [...chosen] : undefined);
  };
  return element(
    "div",
    { className: "choices-of" },
    column.values.map(({ value, count }) =>
      element(
        "label",
        {},
        element("input", {
          type: "checkbox",
          checked: chosen.has(value),
          onchange: (event) => toggle(value, event.target.checked),
        }),
        element("span", {}, plain(value)),
        " ",
        element(
          "span",
          { className: "quiet" },
          whole(count),
          element("span", { className: "unseen" }, " rows"),
        ),
      ),
    ),
  );
}

function range(column, type, wanted, pick) {
  const bounds = { ...(wanted && typeof wanted === "object" ? wanted : {}) };
  // a time without a zone would be read in the server's
  const zone = column.type.includes("with time zone") ? "Z" : "";
  const bound = (name, said) =>
    element(
      "label",
      {},
      element("span", { className: "quiet" }, zone ? `${said} (UTC)` : said),
      element("input", {
        type,
        step: type === "number" ? "any" : "",
        value: (bounds[name] ?? "").toString().replace(/Z$/, ""),
        ariaLabel: `${column.name} ${said}`,
        onchange: (event) => {
          // as text: a bigint does not fit a number
          if (event.target.value) bounds[name] = event.target.value + zone;
          else delete bounds[name];
          pick(Object.keys(bounds).length ? bounds : undefined);
        },
      }),
    );
  return element("div", { className: "range" }, bound("gte", "from"), bound("lte", "to"));
}

function exactly(column, wanted, pick) {
  return element("input", {
    type: "text",
    value: wanted == null ? "" : plain(wanted),
    placeholder: "exactly",
    ariaLabel: `${column.name} is exactly`,
    onchange: (event) => pick(event.target.value || undefined),
  });
}
