/** Keys that work without a mouse: `/`, the arrows, Escape, and those of a list of tabs. */

import { byId } from "./elements.js";

/** Hits are reached through their links or buttons, so that focus and Enter are the browser's. */
export function installKeys({ query, results, toSearch, back }) {
  const columns = () =>
    [...results.querySelectorAll("ol")]
      .filter((list) => list.checkVisibility())
      .map((list) => [...list.querySelectorAll(".primary")]);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const inResults = results.contains(event.target);
    if (event.key === "/" && !isField(event.target)) {
      event.preventDefault();
      toSearch();
      query.focus();
      query.select();
    } else if (event.key === "Escape" && inResults) {
      back();
      query.focus();
    } else if (inResults || event.target === query) {
      const next = neighbour(event.key, event.target);
      if (!next) return;
      event.preventDefault();
      next.focus();
      next.closest("article")?.scrollIntoView({ block: "nearest" });
    }
  });

  function neighbour(key, from) {
    const all = columns();
    if (from === query) return key === "ArrowDown" ? all.flat()[0] : null;
    const hit = from.closest("li")?.querySelector(".primary");
    const column = all.findIndex((hits) => hits.includes(hit));
    if (column < 0) return null;
    const row = all[column].indexOf(hit);
    const beside = (hits) => hits?.at(Math.min(row, hits.length - 1));
    const moves = {
      ArrowDown: () => all[column][row + 1],
      ArrowUp: () => all[column][row - 1] ?? query,
      ArrowRight: () => beside(all[column + 1]),
      ArrowLeft: () => column > 0 && beside(all[column - 1]),
    };
    return moves[key]?.();
  }
}

const isField = (target) =>
  target.matches("input:not([type=checkbox], [type=radio]), select, textarea");

/**
 * A list of tabs, as the ARIA practices have it: arrows move, and what is reached is shown.
 * `chosen(name)` is called with the id of the panel that the user asks for.
 */
export function tabs(list, chosen) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const nameOf = (tab) => tab.getAttribute("aria-controls");
  const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };

  all.forEach((tab, index) => {
    tab.onclick = () => chosen(nameOf(tab));
    tab.onkeydown = (event) => {
      if (!(event.key in steps)) return;
      event.preventDefault();
      const next = all.at(Math.max(0, Math.min(index + steps[event.key], all.length - 1)));
      next.focus();
      chosen(nameOf(next));
    };
  });

  return {
    /** Show one panel and hide the others. */
    show(name) {
      for (const tab of all) {
        const selected = nameOf(tab) === name;
        tab.ariaSelected = String(selected);
        tab.tabIndex = selected ? 0 : -1;
        byId(nameOf(tab)).hidden = !selected;
      }
    },
  };
}
