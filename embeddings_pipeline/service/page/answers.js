/** What was found, and what a reader should know of it. */

import { STEP } from "./address.js";
import { button, byId, element } from "./elements.js";
import { counted, duration, label, percent, score, whole } from "./format.js";
import { tabs } from "./keyboard.js";
import { AMONG, BY_ID, isBrowsing, isOrdered } from "./order.js";

const NAMES = { hybrid: "Both", dense: "Meaning", text: "Words" };
// most rows that a search returns
const MOST = 1000;

/**
 * Draw one answer, or several beside each other. `list` draws hits; `act` shows something else;
 * while the reader is `typing`, what is missing is told a moment later.
 */
export function draw(answers, { view, entity, milliseconds, list, act, clear, typing }) {
  const [first] = answers;
  const ordered = isOrdered(view, entity.filters);
  byId("said").textContent = said(answers, view, ordered, milliseconds);
  byId("fresh").textContent = fresh(first);
  const hits =
    answers.length > 1 ? columns(answers, entity, list) : list.draw(first.results, entity);
  byId("results").replaceChildren(
    element("h2", { className: "unseen" }, "Results"),
    ...[notice(first, view, { act, clear, typing }), hits, more(answers, view, ordered, act)].filter(
      Boolean,
    ),
  );
  fold();
}

function said(answers, view, ordered, milliseconds) {
  const time = `${milliseconds} ms`;
  if (answers.length > 1) {
    const each = answers.map(({ mode, results }) => `${NAMES[mode]} ${results.length}`);
    return `Results: ${each.join(", ")} · ${time}`;
  }
  const { total, results, mode, sampled } = answers[0];
  if (!results.length) return `No results · ${time}`;
  const all = total && (total.exact ? whole(total.rows) : `more than ${whole(total.rows)}`);
  const rows = all ? `${whole(results.length)} of ${all}` : whole(results.length);
  if (sampled) return `Some of ${all} ${total.rows === 1 ? "row" : "rows"}`;
  const noun = results.length === 1 && !(total?.rows > 1) ? "result" : "results";
  const what = isBrowsing(view) ? "rows" : noun;
  if (ordered && total?.rows > AMONG) {
    return `${whole(results.length)} of the ${AMONG} best of ${all} results · ${time}`;
  }
  const order = mode === "text" ? " with these words" : "";
  return `${rows} ${what}${order} · ${time}`;
}

function fresh({ coverage, data_lag_seconds: lag, model, vector_set: set }) {
  if (!model) return "";
  const by = `${model}, set ${set}`;
  if (coverage == null) return `Coverage is being counted · ${by}`;
  const waits = lag > 0 ? `the oldest change waits for ${duration(lag)}` : "up to date";
  return `${percent(coverage)} of rows can be found, ${waits} · ${by}`;
}

/** What explains an answer with few rows or weak ones, with the next step; null where all is well. */
function notice(answer, view, { act, clear, typing }) {
  const { results, words, total, suggestion } = answer;
  const filtered = Object.keys(view.filters).length > 0;
  if (!results.length && filtered && (total === null || total.rows === 0)) {
    return explained(
      "Nothing is left",
      `No row of ${label(view.entity).toLowerCase()} passes these filters${
        view.mode === "text" && view.query.trim() ? " and has these words" : ""
      }.`,
      [button("Clear filters", clear), inMeaning(view, act)],
    );
  }
  const missing = Object.keys(words ?? {}).filter((word) => words[word] === 0);
  const none = words && missing.length === Object.keys(words).length;
  if (isBrowsing(view) || !words || !missing.length) {
    return results.length ? null : explained("Nothing is found", "Try other words.", []);
  }
  // where meaning counts, too, a word that some rows lack is no news
  if (!none && view.mode !== "text" && !suggestion) return null;
  const quoted = missing.map((word) => `“${asTyped(word, view.query)}”`).join(", ");
  const weak = answer.best_similarity;
  const near = results.length
    ? `Below is what is nearest in meaning${weak === null ? "" : ` (similarity ${score(weak)})`}.`
    : "";
  const correct = (text, properties) =>
    suggestion &&
    button(
      [`${text} `, element("strong", {}, suggestion.query), text === "Did you mean" && "?"],
      () => act({ query: suggestion.query, count: STEP }),
      properties,
    );
  const said = none
    ? explained(
        `No row has ${quoted}`,
        suggestion?.used ? "These rows have the words that are nearest." : near,
        [correct("Search for"), results.length === 0 && inMeaning(view, act)],
      )
    : element(
        "p",
        { className: "quiet aside" },
        `No row has ${quoted}. `,
        correct("Did you mean", { className: "plain" }),
      );
  // a word that is being typed is no word yet
  if (typing) said.classList.add("late");
  return said;
}

const inMeaning = (view, act) =>
  view.mode === "text" && button("Search by meaning", () => act({ mode: "hybrid" }));

function explained(title, text, steps) {
  return element(
    "div",
    { className: "notice" },
    element("p", {}, element("strong", {}, title), text && `. ${text}`),
    steps.some(Boolean) && element("div", { className: "steps" }, steps),
  );
}

/** The word of the query that a lexeme was made of; the lexeme where none looks like it. */
function asTyped(lexeme, query) {
  const alike = query
    .split(/[^\p{L}\p{N}]+/u)
    .filter((word) => word.toLowerCase().startsWith(lexeme.slice(0, 3)));
  return alike[0] ?? lexeme;
}

function more(answers, view, ordered, act) {
  const [{ total, sampled }] = answers;
  if (sampled) {
    const all = `Browse all ${total.exact ? whole(total.rows) : "rows"}`;
    return button(all, () => act({ sort: BY_ID, count: STEP }), { id: "more" });
  }
  const count = Math.max(...answers.map(({ results }) => results.length));
  const rows = total?.rows ?? Infinity;
  const most = ordered ? AMONG : MOST;
  // a list that is shorter than the requested count is whole
  if (count < view.count || count >= rows || view.count >= most) return null;
  const next = Math.min(2 * view.count, most);
  const name = isBrowsing(view) ? "More rows" : "More results";
  return button(name, () => act({ count: next }, { replace: true }), { id: "more" });
}

/** Ways to rank beside each other; on a narrow screen one at a time. */
function columns(answers, entity, list) {
  const places = answers.map(
    ({ results }) => new Map(results.map((hit, index) => [hit.id, index + 1])),
  );
  const idOf = ({ mode }) => `column-${mode}`;
  const choice = element(
    "div",
    { role: "tablist", ariaLabel: "Ways to rank", className: "narrow segments" },
    answers.map((answer) =>
      element(
        "button",
        { type: "button", role: "tab", id: `tab-${idOf(answer)}`, "aria-controls": idOf(answer) },
        NAMES[answer.mode],
      ),
    ),
  );
  const sections = answers.map((answer, at) => {
    const ranks = (id) =>
      answers
        .map((other, n) =>
          n !== at && places[n].has(id) ? `${NAMES[other.mode]} ${places[n].get(id)}` : null,
        )
        .filter(Boolean);
    return element(
      "section",
      { id: idOf(answer), "aria-label": NAMES[answer.mode] },
      element("h2", { className: "wide-only" }, NAMES[answer.mode]),
      element("p", { className: "quiet" }, counted(answer.results.length, "result")),
      list.draw(answer.results, entity, { of: answer.mode, ranks }),
    );
  });
  return element("div", {}, choice, element("div", { className: "columns" }, sections));
}

const narrow = matchMedia("(max-width: 47.99rem)");
let column = "column-hybrid";

/** On a narrow screen show only the column of the chosen tab. */
function fold() {
  const choice = document.querySelector("#results [role=tablist]");
  if (!choice) return;
  const choose = (name) => {
    column = name;
    list.show(name);
  };
  const list = tabs(choice, choose);
  list.show(column);
  if (narrow.matches) return;
  for (const section of document.querySelectorAll(".columns > section")) section.hidden = false;
}
narrow.addEventListener("change", fold);
