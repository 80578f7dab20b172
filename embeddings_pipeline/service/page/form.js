/** The form that searches: what is in it is what the address says. */

import { keep, kept, STEP } from "./address.js";
import { byId, element } from "./elements.js";
import { label } from "./format.js";
import { isBrowsing } from "./order.js";

// between two searches while someone types
const LEAST_MS = 40;
const MOST_MS = 1_000;

/** `go(changes, options)` is called with what the user wants to see. */
export function searchForm(go) {
  const [query, entity, image] = ["query", "entity", "image"].map(byId);
  const modes = [...document.querySelectorAll("[name=mode]")];
  let typing = null;
  let typedAt = -Infinity;
  let pace = LEAST_MS;
  let browsing = false;

  // what was typed a moment ago goes along with any other change
  function act(changes, options) {
    clearTimeout(typing);
    typing = null;
    go({ query: query.value, ...changes }, options);
  }

  function typed() {
    typedAt = performance.now();
    // the order of browsed rows does not apply to the best rows
    act(
      { like: null, image: null, count: STEP, ...(browsing && { sort: null }) },
      { typed: true },
    );
  }

  const choose = ([file]) => act({ like: null, image: file ? keep(file) : null, count: STEP });

  query.oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(typed, Math.max(0, typedAt + pace - performance.now()));
  };
  byId("ask").onsubmit = (event) => {
    event.preventDefault();
    typed();
    // the keyboard of a phone covers the results
    if (!matchMedia("(hover: hover)").matches) query.blur();
  };
  image.onchange = () => choose(image.files);
  byId("ask").onpaste = ({ clipboardData: { files, types } }) => {
    // of what was copied from a document there is text, too, and that is meant
    if (files.length && !types.includes("text/plain") && !byId("by-image").hidden) choose(files);
  };
  entity.onchange = () =>
    act({ entity: entity.value, filters: {}, sort: null, like: null, image: null, count: STEP });
  for (const mode of modes) mode.onchange = () => act({ mode: mode.value });

  return {
    act,
    /** Whether something was typed a moment ago. */
    isTyping: () => performance.now() - typedAt < MOST_MS,
    /** The time of the last answer is the time between searches at two keys. */
    answeredIn(milliseconds) {
      pace = Math.min(Math.max(milliseconds, LEAST_MS), MOST_MS);
    },
    /** Offer these entities. */
    offer(names) {
      entity.replaceChildren(
        ...names.map((name) => element("option", { value: name }, label(name))),
      );
    },
    /** Show what is searched, and whether that can be done by an image. */
    show(view, images) {
      browsing = isBrowsing(view);
      // not while someone types
      if (typing === null && query.value !== view.query) query.value = view.query;
      entity.value = view.entity;
      query.placeholder = view.entity ? `Search ${label(view.entity).toLowerCase()}` : "";
      for (const mode of modes) mode.checked = mode.value === view.mode;
      byId("by-image").hidden = !images;
      const chosen = new DataTransfer();
      if (view.image !== null) chosen.items.add(kept(view.image));
      image.files = chosen.files;
      // what is like a row or an image is found by its vector
      byId("modes").disabled = view.like !== null || view.image !== null;
    },
  };
}
