/** Filters: the panel beside the results, and chips of what is set. */

import { STEP } from "./address.js";
import { button, byId, drawing, element } from "./elements.js";
import { kindOf, label, shown, whole } from "./format.js";

// values of a column that are shown before "more"
const FEW = 8;
const INPUTS = { number: "number", date: "date", time: "datetime-local" };

/** The filter columns of an entity whose values are counted in an answer. */
export const counted = (columns) =>
  columns.filter(({ type }) => kindOf(type) === "text").map(({ name }) => name);

/** `act(changes)` is called when a filter is chosen. */
export function filterPanel(act) {
  const panel = byId("filters");
  const form = byId("facets");
  const chips = byId("chips");
  const open = new Set();
  let view = null;

  function choose(column, wanted) {
    const filters = { ...view.filters, [column]: wanted };
    if (wanted === undefined) delete filters[column];
    act({ filters, count: STEP });
  }

  const clear = () => {
    act({ filters: {}, count: STEP });
    byId("query").focus();
  };

  form.onsubmit = (event) => event.preventDefault();
  openWhereThereIsRoom(panel);

  function facet(column, counts) {
    const control = kindOf(column.type) === "text" ? choices : range;
    const part = { column, wanted: view.filters[column.name], counts, open };
    const pick = (wanted) => choose(column.name, wanted);
    return element(
      "fieldset",
      {},
      element("legend", {}, label(column.name)),
      control({ ...part, pick, again: () => draw(drawn) }),
    );
  }

  let drawn = null;

  function draw({ columns, facets }) {
    drawn = { columns, facets };
    const focus = form.contains(document.activeElement) ? document.activeElement.id : null;
    form.replaceChildren(...columns.map((column) => facet(column, facets?.[column.name])));
    // the control that was just used keeps the focus
    if (focus) byId(focus)?.focus();
  }

  return {
    clear,
    /** Show the filters of an entity with these columns; `facets` are the counts of an answer. */
    show(now, columns, facets) {
      view = now;
      const set = Object.entries(view.filters);
      panel.hidden = columns.length === 0 && set.length === 0;
      panel.querySelector("summary").textContent = set.length
        ? `Filters (${set.length})`
        : "Filters";
      draw({ columns, facets });
      chips.hidden = set.length === 0;
      chips.replaceChildren(
        ...set.map(([name, wanted]) => {
          const column = columns.find((one) => one.name === name);
          const text = `${label(name)}: ${described(wanted, column)}`;
          return button([text, cross()], () => choose(name, undefined), {
            className: "chip",
            ariaLabel: `Remove the filter ${text}`,
          });
        }),
        button("Clear all", clear, { className: "plain" }),
      );
    },
  };
}

const cross = () => element("span", { ariaHidden: "true" }, " ×");

/** A filter in words. */
function described(wanted, { name = "", type } = {}) {
  const one = (value) => shown(value, name, type);
  if (Array.isArray(wanted)) return wanted.map(one).join(", ");
  if (!wanted || typeof wanted !== "object") return one(wanted);
  const { gte, lte, ...others } = wanted;
  if (Object.keys(others).length) return JSON.stringify(wanted);
  const bound = (value) => (kindOf(type) === "number" ? one(Number(value)) : one(value));
  if (gte === undefined) return `up to ${bound(lte)}`;
  return lte === undefined ? `from ${bound(gte)}` : `${bound(gte)} to ${bound(lte)}`;
}

function choices({ column, wanted, counts, open, pick, again }) {
  const chosen = new Set(Array.isArray(wanted) ? wanted : wanted === undefined ? [] : [wanted]);
  const listed = new Map((counts ?? column.values ?? []).map((one) => [one.value, one.count]));
  // what the answer does not count is in none of its rows, where all values are known
  const all = [...new Set([...(column.values ?? []).map((one) => one.value), ...listed.keys()])];
  const values = [...chosen].filter((value) => !all.includes(value)).concat(all);
  const toggle = (value, on) => {
    if (on) chosen.add(value);
    else chosen.delete(value);
    pick(chosen.size ? [...chosen] : undefined);
  };
  const unfolded = open.has(column.name);
  const some = unfolded
    ? values
    : values.slice(0, FEW).concat(values.slice(FEW).filter((value) => chosen.has(value)));
  return [
    some.map((value) => {
      const id = `filter-${column.name}-${JSON.stringify(value)}`;
      return element(
        "label",
        { className: "choice" },
        element("input", {
          id,
          type: "checkbox",
          checked: chosen.has(value),
          onchange: (event) => toggle(value, event.target.checked),
        }),
        element("span", {}, shown(value, column.name, column.type)),
        " ",
        element(
          "span",
          { className: "quiet" },
          whole(listed.get(value) ?? 0),
          element("span", { className: "unseen" }, " rows"),
        ),
      );
    }),
    values.length > FEW &&
      button(
        unfolded ? "Fewer" : `${values.length - FEW} more`,
        () => {
          if (!open.delete(column.name)) open.add(column.name);
          again();
        },
        { id: `filter-${column.name}-more`, className: "plain", ariaExpanded: String(unfolded) },
      ),
    // an answer counts the most frequent values only
    column.values === null && another(column, values, (value) => toggle(value, true)),
  ];
}

function another(column, values, add) {
  const list = `filter-${column.name}-values`;
  const field = element("input", {
    id: `filter-${column.name}-another`,
    type: "text",
    autocomplete: "off",
    placeholder: "Another value",
    ariaLabel: `${label(column.name)}: another value`,
    onchange: ({ target }) => target.value && add(target.value),
  });
  // the property of this name is read-only
  field.setAttribute("list", list);
  return [
    field,
    element(
      "datalist",
      { id: list },
      values.filter((value) => value !== null).map((value) => element("option", { value })),
    ),
  ];
}

function range({ column, wanted, pick }) {
  const kind = kindOf(column.type);
  const bounds = { ...(wanted && typeof wanted === "object" ? wanted : {}) };
  // a time without a zone would be read in the server's
  const zone = column.type.includes("with time zone") ? "Z" : "";
  const bound = (name, said) =>
    element(
      "label",
      {},
      element("span", { className: "quiet" }, zone ? `${said} (UTC)` : said),
      element("input", {
        id: `filter-${column.name}-${name}`,
        type: INPUTS[kind],
        step: kind === "number" ? "any" : "",
        value: (bounds[name] ?? "").toString().replace(/Z$/, ""),
        ariaLabel: `${label(column.name)} ${said}`,
        onchange: (event) => {
          // as text: a bigint does not fit a number
          if (event.target.value) bounds[name] = event.target.value + zone;
          else delete bounds[name];
          pick(Object.keys(bounds).length ? bounds : undefined);
        },
      }),
    );
  return [
    column.histogram && histogram(column, bounds, (gte, lte) => pick({ gte, lte }), zone),
    element("div", { className: "range" }, bound("gte", "from"), bound("lte", "to")),
  ];
}

/** Bars of how many rows are where; one that is clicked becomes the range, as the fields can. */
function histogram({ type, histogram: { least, most, rows } }, { gte, lte }, choose, zone) {
  const kind = kindOf(type);
  const width = (most - least) / rows.length;
  const highest = Math.max(...rows);
  const numberOf = (bound) => (kind === "number" ? Number(bound) : Date.parse(bound) / 1_000);
  const inRange = (middle) =>
    (gte === undefined || middle >= numberOf(gte)) &&
    // a day ends with its last second
    (lte === undefined || middle <= numberOf(lte) + (kind === "date" ? 86_399 : 0));
  const fieldOf = (number) => {
    if (kind === "number") return String(Number(number.toPrecision(3)));
    const text = new Date(1_000 * number).toISOString();
    return kind === "date" ? text.slice(0, 10) : text.slice(0, 16) + zone;
  };
  return drawing(
    "svg",
    {
      class: "histogram",
      viewBox: `0 0 ${rows.length} 10`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    },
    rows.map((count, n) => {
      const from = least + n * width;
      // the root shows few rows beside many
      const height = count && Math.max(0.5, 10 * Math.sqrt(count / highest));
      const bar = drawing(
        "g",
        { class: inRange(from + width / 2) ? "in" : "" },
        drawing("title", {}, `${fieldOf(from)} to ${fieldOf(from + width)}: ${whole(count)}`),
        drawing("rect", { class: "column", x: n, y: 0, width: 1, height: 10 }),
        drawing("rect", { class: "bar", x: n + 0.05, y: 10 - height, width: 0.9, height }),
      );
      bar.onclick = () => choose(fieldOf(from), fieldOf(from + width));
      return bar;
    }),
  );
}

function openWhereThereIsRoom(details) {
  const room = matchMedia("(min-width: 60rem)");
  const follow = () => (details.open = room.matches);
  room.addEventListener("change", follow);
  follow();
}
