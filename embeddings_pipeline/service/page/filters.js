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

/** Ranges whose rows are counted in an answer: those of the bars that show all rows. */
export const barsOf = (columns) =>
  columns
    .filter(({ histogram }) => histogram)
    .map(({ name, histogram: { least, most, rows } }) => ({
      ...{ column: name, least, most, bars: rows.length },
    }));

/**
 * `act(changes)` is called when a filter is chosen; `seek(column, text)` finds the values of a column
 * with a word that begins like the text.
 */
export function filterPanel(act, seek) {
  const panel = byId("filters");
  const form = byId("facets");
  const chips = byId("chips");
  const open = new Set();
  // what is typed to find a value, by column
  const sought = new Map();
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
    const wanted = view.filters[column.name];
    const part = { column, wanted, counts: counts?.values, open, sought, seek };
    const pick = (wanted) => choose(column.name, wanted);
    return element(
      "fieldset",
      {},
      element(
        "legend",
        {},
        label(column.name),
        counts?.among && element("span", { className: "quiet" }, ` in ${whole(counts.among)} rows`),
      ),
      control({ ...part, pick, again: () => draw(drawn) }),
    );
  }

  let drawn = null;

  function draw({ columns, facets }) {
    drawn = { columns, facets };
    const focus = form.contains(document.activeElement) ? document.activeElement.id : null;
    form.replaceChildren(...columns.map((column) => facet(column, facets?.[column.name])));
    // the control that was just used keeps the focus
    const used = focus && byId(focus);
    used?.focus();
    if (used?.type === "search") used.setSelectionRange(used.value.length, used.value.length);
  }

  return {
    clear,
    /**
     * Show the filters of an entity with these columns. `facets` have the `values` of an answer, counted
     * `among` so many rows where there are more.
     */
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
  // a number that JavaScript would round stays the text that it is
  const isNumber = (value) => kindOf(type) === "number" && String(Number(value)) === String(value);
  const bound = (value) => one(isNumber(value) ? Number(value) : value);
  if (gte === undefined) return `up to ${bound(lte)}`;
  return lte === undefined ? `from ${bound(gte)}` : `${bound(gte)} to ${bound(lte)}`;
}

function choices({ column, wanted, counts, open, sought, seek, pick, again }) {
  const chosen = new Set(Array.isArray(wanted) ? wanted : wanted === undefined ? [] : [wanted]);
  const toggle = (value, on) => {
    if (on) chosen.add(value);
    else chosen.delete(value);
    pick(chosen.size ? [...chosen] : undefined);
  };
  const one = ({ value, count }) => {
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
        whole(count),
        element("span", { className: "unseen" }, " rows"),
      ),
    );
  };
  const list = element("div", {}, frequent({ column, counts, chosen, open, one, again }));
  // an answer counts the most frequent values only
  if (column.values !== null) return list;
  return [finder({ column, sought, seek, list, one, again, toggle }), list];
}

/** The most frequent values, and those that are chosen. */
function frequent({ column, counts, chosen, open, one, again }) {
  const listed = new Map((counts ?? column.values ?? []).map(({ value, count }) => [value, count]));
  // what the answer does not count is in none of its rows, where all values are known
  const all = [...new Set([...(column.values ?? []).map(({ value }) => value), ...listed.keys()])];
  const values = [...chosen].filter((value) => !all.includes(value)).concat(all);
  const unfolded = open.has(column.name);
  const some = unfolded
    ? values
    : values.slice(0, FEW).concat(values.slice(FEW).filter((value) => chosen.has(value)));
  return [
    some.map((value) => one({ value, count: listed.get(value) ?? 0 })),
    values.length > FEW &&
      button(
        unfolded ? "Fewer" : `${values.length - FEW} more`,
        () => {
          if (!open.delete(column.name)) open.add(column.name);
          again();
        },
        { id: `filter-${column.name}-more`, className: "plain", ariaExpanded: String(unfolded) },
      ),
  ];
}

/** A field that finds values by the beginning of a word, and shows them in place of the list. */
function finder({ column, sought, seek, list, one, again, toggle }) {
  const name = label(column.name);
  let found = [];
  let latest = 0;
  async function find(text) {
    const number = ++latest;
    if (text) sought.set(column.name, text);
    else sought.delete(column.name);
    if (!text) return again();
    const values = await seek(column, text).catch(() => null);
    // something else was typed meanwhile
    if (number !== latest || values === null) return undefined;
    found = values;
    return list.replaceChildren(
      ...(values.length
        ? values.map(one)
        : [element("p", { className: "quiet" }, `No value has a word like “${text}…”`)]),
    );
  }
  const field = element("input", {
    id: `filter-${column.name}-find`,
    type: "search",
    autocomplete: "off",
    spellcheck: false,
    maxLength: 200,
    placeholder: `Find in ${name.toLowerCase()}`,
    ariaLabel: `Find a value of ${name}`,
    value: sought.get(column.name) ?? "",
    oninput: ({ target }) => find(target.value.trim()),
    onkeydown: (event) => {
      if (event.key !== "Enter" || !found.length) return;
      sought.delete(column.name);
      toggle(found[0].value, true);
    },
  });
  if (field.value) find(field.value.trim());
  return field;
}

function range({ column, wanted, counts, pick }) {
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
    column.histogram && histogram(column, counts, bounds, (gte, lte) => pick({ gte, lte }), zone),
    element("div", { className: "range" }, bound("gte", "from"), bound("lte", "to")),
  ];
}

/**
 * Bars of how many rows of an answer are where, or of all rows where none are counted; one that is
 * clicked becomes the range, as the fields can.
 */
function histogram({ type, histogram: all }, counts, { gte, lte }, choose, zone) {
  const { least, most } = all;
  const rows = counts ?? all.rows;
  const kind = kindOf(type);
  const width = (most - least) / rows.length;
  const highest = Math.max(1, ...rows);
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
