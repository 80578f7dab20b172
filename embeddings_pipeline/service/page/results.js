/** Hits, in one column or in one for each way to rank. */

import { element } from "./elements.js";
import { plain, score } from "./format.js";
import { excerptStart, highlight } from "./highlight.js";

export const NAMES = { hybrid: "Hybrid", dense: "Dense", text: "Text" };
// longer texts begin folded
const LONG = 420;
// what a text must be to be shown as an image: the service's policy lets nothing else load
const IMAGE = /^(https:\/\/\S+|data:image\/[\w.+-]+[;,]\S+)$/;

/** Whether a text is the address of an image that can be shown. */
export const isImage = (text) => IMAGE.test(text);

/** An ordered list of hits. `ranks(id)` says where other columns have the row; `like(hit)` is
 * called for more like it. */
export function list(hits, query, { like, ranks = () => [] }) {
  return element(
    "ol",
    { className: "hits" },
    hits.map((hit) => element("li", {}, card(hit, query, ranks(hit.id), like))),
  );
}

function card(hit, query, ranks, like) {
  return element(
    "article",
    {},
    element(
      "div",
      { className: "head" },
      element("span", { className: "id" }, hit.id),
      hit.chunk ? element("span", { className: "quiet" }, `chunk ${hit.chunk}`) : null,
      ranks.map((rank) => element("span", { className: "quiet rank" }, rank)),
      element(
        "span",
        { className: "score" },
        element("span", { className: "unseen" }, "score "),
        score(hit.score),
      ),
    ),
    isImage(hit.text) ? picture(hit) : body(hit.text, query),
    element("div", { className: "foot" }, fields(hit.fields), likeButton(hit, like)),
  );
}

function likeButton(hit, like) {
  return element(
    "button",
    {
      type: "button",
      className: "like",
      ariaLabel: `More like this: ${hit.id}`,
      onclick: () => like(hit),
    },
    "More like this",
  );
}

function body(text, query) {
  const shown = element("p", { className: "text" }, highlight(text, query));
  if (text.length <= LONG) return shown;
  const whole = [...shown.childNodes];
  const start = excerptStart(text, query);
  const part = [start ? "… " : "", ...highlight(text.slice(start), query)];
  shown.classList.add("folded");
  shown.replaceChildren(...part);
  const more = element(
    "button",
    { type: "button", className: "more", ariaExpanded: "false" },
    "Show all",
  );
  more.onclick = () => {
    const folded = shown.classList.toggle("folded");
    shown.replaceChildren(...(folded ? part : whole));
    more.textContent = folded ? "Show all" : "Show less";
    more.ariaExpanded = String(!folded);
  };
  return [shown, more];
}

function picture(hit) {
  const image = element("img", { className: "thumb", alt: `Image of ${hit.id}`, loading: "lazy" });
  const address = element("p", { className: "text" }, hit.text.slice(0, LONG));
  image.onerror = () => image.replaceWith(address);
  image.src = hit.text;
  return image;
}

function fields(values) {
  const known = Object.entries(values).filter(([, value]) => value !== null);
  return element(
    "dl",
    { className: "fields" },
    known.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, plain(value))),
    ),
  );
}
