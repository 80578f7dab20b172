/** Keys that work without a mouse: `/`, the arrows, Escape; Enter is the buttons' own. */

/** Hits are reached through their buttons, so that focus, Enter and names are the browser's. */
export function installKeys({ query, results, toSearch, back }) {
  const columns = () =>
    [...results.querySelectorAll("ol")].map((list) => [...list.querySelectorAll("button.like")]);

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
    const hit = from.closest("li")?.querySelector("button.like");
    const column = all.findIndex((hits) => hits.includes(hit));
    if (column < 0) return null;
    const row = all[column].indexOf(hit);
    const beside = (hits) => hits?.at(Math.min(row, hits.length - 1));
    const moves = {
      ArrowDown: () => all[column][row + 1],
      ArrowUp: () => all[column][row - 1] ?? query,
      ArrowRight: () => beside(all[column + 1]),
      ArrowLeft: () => beside(all[column - 1]),
    };
    return moves[key]?.();
  }
}

const isField = (target) =>
  target.matches("input:not([type=checkbox], [type=radio]), select, textarea");
