/** What was found, and what a reader should know of it. */

import { byId, element } from "./elements.js";
import { counted, duration, percent, score } from "./format.js";
import { list, NAMES } from "./results.js";

/** Draw one answer, or several beside each other; none where nothing was asked. */
export function draw(answers, { view, known, milliseconds, like }) {
  byId("said").textContent = said(answers, view, known, milliseconds);
  byId("fresh").textContent = answers.length ? fresh(answers[0]) : "";
  const query = view.like === null && view.image === null ? view.query : "";
  const drawn =
    answers.length > 1
      ? [element("div", { className: "columns" }, columns(answers, query, like))]
      : answers.map(({ results }) => list(results, query, { like }));
  byId("results").replaceChildren(...drawn);
}

function columns(answers, query, like) {
  const places = answers.map(
    ({ results }) => new Map(results.map((hit, index) => [hit.id, index + 1])),
  );
  return answers.map((answer, column) => {
    const ranks = (id) =>
      answers
        .map((other, at) =>
          at !== column && places[at].has(id) ? `${other.mode} ${places[at].get(id)}` : null,
        )
        .filter(Boolean);
    const name = `column-${answer.mode}`;
    return element(
      "section",
      { "aria-labelledby": name },
      element("h2", { id: name }, NAMES[answer.mode]),
      element("p", { className: "quiet" }, found(answer)),
      list(answer.results, query, { like, ranks }),
    );
  });
}

function said(answers, view, known, milliseconds) {
  if (!known.length) return "No entity is published yet: embeddings-pipeline run does it.";
  if (!answers.length) return `Type to search ${view.entity}.`;
  const time = `in ${milliseconds} ms`;
  if (answers.length === 1) return `${found(answers[0])} ${time}`;
  const each = answers.map(({ mode, results }) => `${mode} ${results.length}`);
  return `Results: ${each.join(", ")}, ${time}`;
}

function found({ results, shortfall, words, best_similarity: nearest }) {
  if (!results.length) return "Nothing found";
  const rows = counted(results.length, "result");
  const counts = Object.values(words ?? {});
  if (counts.length && counts.every((texts) => texts === 0)) {
    return `${rows} that are only near: no row has a word of the query (similarity ${score(nearest)})`;
  }
  return shortfall ? `${rows} (${shortfall} fewer than requested)` : rows;
}

function fresh({ coverage, data_lag_seconds: lag, model, vector_set: set }) {
  if (coverage == null) return `coverage is being counted · ${model}, set ${set}`;
  const waits = lag > 0 ? `the oldest change waits for ${duration(lag)}` : "up to date";
  return `${percent(coverage)} of rows have vectors, ${waits} · ${model}, set ${set}`;
}
