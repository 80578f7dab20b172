/** The form that searches: what is in it is what the address says. */

import { byId, element } from "./elements.js";
import { keep, kept } from "./images.js";

const PAUSE_MS = 200;
// what is typed within so long of what was typed before is one entry of the history
const BURST_MS = 2_000;

/** `go(changes, options)` is called with what the user wants to see. */
export function searchForm(go) {
  const [query, entity, count, image] = ["query", "entity", "count", "image"].map(byId);
  const modes = [...document.querySelectorAll("[name=mode]")];
  let typing = null;
  let typedAt = -Infinity;

  // what was typed a moment ago goes along with any other change
  function act(changes, options) {
    clearTimeout(typing);
    typing = null;
    go({ query: query.value, ...changes }, options);
  }

  function typed() {
    const replace = performance.now() - typedAt < BURST_MS;
    typedAt = performance.now();
    act({ like: null, image: null }, { replace });
  }

  const choose = ([file]) => act({ like: null, image: file ? keep(file) : null });

  query.oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(typed, PAUSE_MS);
  };
  byId("ask").onsubmit = (event) => {
    event.preventDefault();
    typed();
  };
  image.onchange = () => choose(image.files);
  byId("ask").onpaste = ({ clipboardData: { files, types } }) => {
    // of what was copied from a document there is text, too, and that is meant
    if (files.length && !types.includes("text/plain") && !byId("by-image").hidden) choose(files);
  };
  entity.onchange = () => act({ entity: entity.value, filters: {}, like: null, image: null });
  count.onchange = () => act({ count: Number(count.value) });
  for (const mode of modes) mode.onchange = () => act({ mode: mode.value });

  return {
    act,
    /** Offer these entities. */
    offer(names) {
      entity.replaceChildren(...names.map((name) => element("option", {}, name)));
    },
    /** Show what is searched, and whether that can be done by an image. */
    show(view, images) {
      // not while someone types
      if (typing === null && query.value !== view.query) query.value = view.query;
      entity.value = view.entity;
      count.value = String(view.count);
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
