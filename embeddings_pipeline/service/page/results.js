/** Hits: what a row is, where it leads, and why it was found. */

import { button, element } from "./elements.js";
import { kindOf, label, score, shown, whole } from "./format.js";

// a text of more than LONG characters begins folded, BEFORE characters ahead of the first word found
const LONG = 320;
const BEFORE = 80;
// a shorter text without a title is a heading by itself
const HEADING = 120;
// a shorter part of a text is a field
const SHORT = 40;
// what can be shown as an image: the service's policy lets nothing else load
const IMAGE = /^(https:\/\/\S+|data:image\/[\w.+-]+[;,]\S+)$/;
const LINK = /^https?:\/\/\S+$/i;

/**
 * Draws lists of hits. A hit that is in the list before and after is the same element, so that
 * nothing of it flickers. `explain(hit)` returns why a hit was found, as elements.
 */
export function hitList({ like, explain }) {
  let before = new Map();
  let now = new Map();

  return {
    /** Begin to draw; lists that are not drawn until the next time are forgotten. */
    begin() {
      before = now;
      now = new Map();
    },
    /** An ordered list of hits. `ranks(id)` says where other lists have the row. */
    draw(hits, entity, { of = "", ranks = () => [] } = {}) {
      return element(
        "ol",
        { className: "hits" },
        hits.map((hit) => {
          const key = JSON.stringify([of, { ...hit, score: null }, ranks(hit.id)]);
          const drawn = before.get(key);
          // it was found for another reason
          drawn?.querySelector(".why")?.replaceWith(why(hit, heading(hit, entity), explain));
          const item = drawn ?? element("li", {}, card(hit, entity, ranks(hit.id), like, explain));
          now.set(key, item);
          return item;
        }),
      );
    },
  };
}

/** What a hit is called: its title, or its text where that is short, or its id. */
export function heading(hit, entity) {
  const { title } = partsOf(hit, entity);
  return title.map(({ text }) => text).join("");
}

function card(hit, entity, ranks, like, explain) {
  const { title, prose, fields } = partsOf(hit, entity);
  const name = title.map(({ text }) => text).join("");
  const picture = imageOf(hit, name);
  return element(
    "article",
    { className: picture ? "hit pictured" : "hit" },
    picture,
    element(
      "div",
      { className: "about" },
      element("h3", {}, linked(hit.url, title.map(marked))),
      element(
        "p",
        { className: "where quiet" },
        element(
          "span",
          { className: "id" },
          `${hit.id}${hit.chunk ? `, part ${hit.chunk + 1}` : ""}`,
        ),
        hit.url && LINK.test(hit.url) && element("span", {}, hostOf(hit.url)),
        ranks.map((rank) => element("span", { className: "rank" }, rank)),
      ),
      prose.length > 0 && text(prose),
      fieldList(fields),
      element(
        "div",
        { className: "foot" },
        button("More like this", () => like(hit), {
          className: LINK.test(hit.url ?? "") ? "plain like" : "plain like primary",
          ariaLabel: `More like this: ${name}`,
        }),
        hit.score !== undefined && why(hit, name, explain),
      ),
    ),
  );
}

function linked(url, content) {
  if (!LINK.test(url ?? "")) return content;
  return element("a", { href: url, className: "primary", rel: "noreferrer" }, content);
}

const hostOf = (url) => url.replace(/^https?:\/\/(www\.)?/i, "").split(/[/?#]/)[0];

function imageOf(hit, name) {
  const url = [hit.image_url, hit.text].find((one) => IMAGE.test(one ?? ""));
  if (!url) return null;
  const image = element("img", { className: "thumb", alt: `Image of ${name}`, loading: "lazy" });
  image.onerror = () => image.remove();
  image.src = url;
  return image;
}

const marked = ({ text, mark }) => (mark ? element("mark", {}, text) : text);

/** The prose of a hit, folded where it is long. */
function text(pieces) {
  const shownText = element("p", { className: "text" }, pieces.map(marked));
  const length = pieces.reduce((sum, piece) => sum + piece.text.length, 0);
  if (length <= LONG) return shownText;
  const part = excerpt(pieces);
  shownText.replaceChildren(...part.map(marked));
  shownText.classList.add("folded");
  const more = button(
    "Show all",
    () => {
      const folded = shownText.classList.toggle("folded");
      shownText.replaceChildren(...(folded ? part : pieces).map(marked));
      more.textContent = folded ? "Show all" : "Show less";
      more.ariaExpanded = String(!folded);
    },
    { className: "plain", ariaExpanded: "false" },
  );
  return [shownText, more];
}

/** The pieces from shortly before the first marked one. */
function excerpt(pieces) {
  const first = pieces.findIndex((piece) => piece.mark);
  const before = pieces.slice(0, Math.max(first, 0)).reduce((n, { text }) => n + text.length, 0);
  if (before < 2 * BEFORE) return pieces;
  const lead = pieces[first - 1].text;
  const cut = lead.indexOf(" ", Math.max(0, lead.length - BEFORE));
  return [{ text: `… ${lead.slice(cut + 1)}`, mark: false }, ...pieces.slice(first)];
}

function fieldList(fields) {
  if (!fields.length) return null;
  return element(
    "dl",
    { className: "fields" },
    fields.map(({ name, value, type }) =>
      element(
        "div",
        {},
        element("dt", {}, label(name)),
        element("dd", {}, shown(value, name, type)),
      ),
    ),
  );
}

function why(hit, name, explain) {
  const place = element("div", { className: "reasons" });
  const fold = element(
    "details",
    { className: "why" },
    element("summary", { ariaLabel: `Why this result: ${name}` }, "Why this result"),
    place,
  );
  fold.addEventListener("toggle", async () => {
    if (!fold.open || place.childElementCount) return;
    place.replaceChildren(element("p", {}, "…"));
    place.replaceChildren(...(await explain(hit)));
  });
  return fold;
}

/** Why a hit was found, as elements: its place by vector and by words among the best rows. */
export function reasons(hit, { dense, text: byWords, best }) {
  const near = dense.results.findIndex((one) => one.id === hit.id);
  const worded = byWords.results.findIndex((one) => one.id === hit.id);
  const words = [...new Set(wordsOf(hit).map((word) => word.toLowerCase()))];
  const rows = [
    [
      "By meaning",
      near < 0
        ? `not among the ${best} nearest`
        : `${ordinal(near + 1)} nearest, similarity ${score(dense.results[near].score)}`,
    ],
    [
      "By words",
      worded < 0
        ? "none of the words, or few"
        : `${ordinal(worded + 1)}, score ${score(byWords.results[worded].score)}`,
    ],
    ["Words in it", words.length ? words.join(", ") : "none"],
    [
      "Rows with each word",
      Object.entries(byWords.words ?? {})
        .map(([word, count]) => `${word} ${whole(count)}`)
        .join(", ") || "none",
    ],
    ["Score", score(hit.score)],
  ];
  return [
    element(
      "dl",
      { className: "fields" },
      rows.map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)),
      ),
    ),
  ];
}

const PLURAL = new Intl.PluralRules("en", { type: "ordinal" });
const ENDINGS = { one: "st", two: "nd", few: "rd", other: "th" };
const ordinal = (n) => `${n}${ENDINGS[PLURAL.select(n)]}`;

/** The words of the query that are marked in a hit. */
function wordsOf({ text, highlights }) {
  const characters = [...text];
  return (highlights ?? []).map(([from, to]) => characters.slice(from, to).join(""));
}

/**
 * A hit as a title, prose and fields. The pipeline's default text, `name: Pump. price: 12`, is
 * taken apart: what says the title is not said twice, and short parts are fields.
 */
function partsOf(hit, entity) {
  const columns = entity?.fields ?? {};
  const filters = (entity?.filters ?? []).map(({ name }) => name);
  const fields = [...filters, ...Object.keys(hit.fields).filter((name) => !filters.includes(name))]
    .filter((name) => hit.fields[name] != null && hit.fields[name] !== hit.title)
    .map((name) => ({ name, value: hit.fields[name], type: columns[name] }));
  const all = IMAGE.test(hit.text) ? [] : pieces(hit);
  const known = new Set(fields.map(({ name }) => name));
  let title = hit.title == null ? null : [{ text: hit.title, mark: false }];
  const prose = [];
  for (const { name, body } of labelled(all, Object.keys(columns))) {
    const plain = body.map(({ text }) => text).join("");
    if (hit.title !== null && plain.trim() === hit.title?.trim()) title = body;
    else if (title === null && !prose.length && plain.length <= HEADING) title = body;
    else if (known.has(name)) continue;
    else if (name === null || plain.length > SHORT) prose.push(...joined(prose, body));
    else fields.push({ name, value: typed(plain, columns[name]), type: columns[name] });
  }
  return { title: title ?? [{ text: hit.id, mark: false }], prose, fields };
}

// the text has a number as the database prints it
const typed = (text, type) =>
  kindOf(type) === "number" && Number.isFinite(Number(text)) ? Number(text) : text;

const joined = (prose, body) => (prose.length ? [{ text: " ", mark: false }, ...body] : body);

/** The text in pieces, marked where words of the query stand. */
function pieces({ text, highlights }) {
  // the answer counts code points
  const characters = [...text];
  const found = [];
  let at = 0;
  for (const [from, to] of highlights ?? []) {
    found.push({ text: characters.slice(at, from).join(""), mark: false });
    found.push({ text: characters.slice(from, to).join(""), mark: true });
    at = to;
  }
  found.push({ text: characters.slice(at).join(""), mark: false });
  return found.filter(({ text }) => text);
}

/** The pieces by the column that stands before them, `name: `; null where none does. */
function labelled(all, columns) {
  const text = all.map((piece) => piece.text).join("");
  const names = columns.map((name) => name.replace(/[^\w]/g, "\\$&")).join("|");
  const seen = new Set();
  const starts = [...text.matchAll(new RegExp(`(^|\\. )(${names}): `, "g"))]
    .map(({ 0: before, 2: name, index }) => ({ name, at: index, end: index + before.length }))
    .filter(({ name }) => name && !seen.has(name) && seen.add(name));
  if (starts[0]?.at !== 0) return text ? [{ name: null, body: all }] : [];
  return starts.map(({ name, end }, index) => ({
    name,
    body: between(all, end, starts[index + 1]?.at ?? text.length),
  }));
}

function between(all, from, to) {
  const found = [];
  let at = 0;
  for (const { text, mark } of all) {
    const part = text.slice(Math.max(0, from - at), Math.max(0, to - at));
    if (part) found.push({ text: part, mark });
    at += text.length;
  }
  return found;
}
