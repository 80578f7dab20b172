/** Marks the words of a query in a text. */

import { element } from "./elements.js";

const SEGMENTER = new Intl.Segmenter(undefined, { granularity: "word" });
// near to what the service's stemmers cut off English and Russian words
const ENDINGS = /(?<=...)(?:['’]s|ing|ed|es|s|e|[аеёиоуыэюяйьмх]{1,3})$/u;
// characters that an excerpt shows before the word
const BEFORE = 80;
// the most frequent of the words that full-text search passes over
const PASSED_OVER = new Set(
  (
    "a an and are as at be by do for from how i in is it my not of on or that the this to was what" +
    " with you и в во не что он на я с со как а то все она так его но да ты к у же вы за бы по"
  ).split(" "),
);

/** The text as nodes, with the query's words in <mark>. */
export function highlight(text, query) {
  const wanted = new Set(wordsOf(query).map(stem));
  const nodes = [];
  let plain = "";
  for (const { segment, isWordLike } of SEGMENTER.segment(text)) {
    if (isWordLike && wanted.has(stem(segment))) {
      nodes.push(plain, element("mark", {}, segment));
      plain = "";
    } else {
      plain += segment;
    }
  }
  return [...nodes, plain];
}

/** Where an excerpt begins, so that the first of the query's words is in it. */
export function excerptStart(text, query) {
  const wanted = new Set(wordsOf(query).map(stem));
  const first = [...SEGMENTER.segment(text)].find(
    ({ segment, isWordLike }) => isWordLike && wanted.has(stem(segment)),
  );
  if (!first || first.index < BEFORE * 2) return 0;
  return text.indexOf(" ", first.index - BEFORE) + 1;
}

function wordsOf(query) {
  return [...SEGMENTER.segment(query)]
    .filter(({ segment, isWordLike }) => isWordLike && !PASSED_OVER.has(segment.toLowerCase()))
    .map(({ segment }) => segment);
}

const stem = (word) => word.toLowerCase().replace(ENDINGS, "");
