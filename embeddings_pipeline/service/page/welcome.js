/** The first view: what can be searched, and queries to begin with. */

import { button, element } from "./elements.js";
import { label } from "./format.js";
import { heading } from "./results.js";

const QUERIES = 5;
const ROWS = 10;
// words of a text that make a query that someone would type
const FEWEST = 2;
const MOST = 9;
const LONGEST = 50;

/** What invites to search `entity`, one of those that are `known`; `act` shows something else. */
export function welcome(entity, known, act) {
  return element(
    "div",
    { className: "welcome" },
    element("h2", {}, `Search ${label(entity.entity).toLowerCase()}`),
    element(
      "p",
      {},
      "Say in your own words what you look for. Rows are found by their meaning and by their words.",
    ),
    row(
      "Try",
      queries(entity).map((query) => button(query, () => act({ query }), { className: "chip" })),
    ),
    known.length > 1 &&
      row(
        "Or search",
        known
          .filter((one) => one !== entity)
          .map((one) =>
            button(label(one.entity), () => act({ entity: one.entity, filters: {}, sort: null }), {
              className: "chip",
            }),
          ),
        "offers wide-only",
      ),
  );
}

function row(name, buttons, className = "offers") {
  if (!buttons.length) return null;
  return element(
    "div",
    { className },
    element("span", { className: "quiet" }, name),
    buttons,
  );
}

/** Some of the rows of an entity, in the form of hits, no two with the same heading. */
export function someRows(entity) {
  const rows = entity.examples.map(({ texts, ...rest }) => ({ ...rest, text: texts[0] }));
  const byHeading = new Map(rows.map((one) => [heading(one, entity), one]));
  return [...byHeading.values()].slice(0, ROWS);
}

function queries(entity) {
  const found = entity.examples.flatMap((one) => {
    const hit = { ...one, text: one.texts[0] };
    return [heading(hit, entity), hit.text].find(isQuery) ?? [];
  });
  // first those that the reader can probably read
  const readable = new RegExp(`^\\P{L}*\\p{Script=${script()}}`, "u");
  const [mine, others] = [true, false].map((wanted) =>
    found.filter((text) => readable.test(text) === wanted),
  );
  return [...new Set([...mine, ...others])].slice(0, QUERIES);
}

function isQuery(text) {
  const words = text.split(/\s+/).length;
  return words >= FEWEST && words <= MOST && text.length <= LONGEST && !/[:_/]| -/.test(text);
}

/** The script that the reader's language is written in; some have several, as Japanese. */
function script() {
  const { script: found } = new Intl.Locale(navigator.language).maximize();
  return { Jpan: "Hani", Kore: "Hang", Hans: "Hani", Hant: "Hani" }[found] ?? found ?? "Latn";
}
