/** The panel of filters, beside the results. */

import { byId, element } from "./elements.js";
import { facets } from "./facets.js";

/** `act(changes)` is called when a filter is chosen. */
export function filterPanel(act) {
  const panel = byId("filters");
  const form = byId("facets");
  const clear = element("button", { type: "button" }, "Clear filters");
  let view = null;
  let drawn = null;

  const keyOf = (filters) => JSON.stringify([view.entity, filters]);

  function choose(column, wanted) {
    const filters = { ...view.filters, [column]: wanted };
    if (wanted === undefined) delete filters[column];
    // the control that was just used stays as it is, and keeps the focus
    drawn = keyOf(filters);
    act({ filters });
  }

  clear.onclick = () => {
    act({ filters: {} });
    form.querySelector("input")?.focus();
  };
  form.onsubmit = (event) => event.preventDefault();
  openWhereThereIsRoom(panel);

  return {
    /** Show the filters of an entity with these columns. */
    show(now, columns) {
      view = now;
      const chosen = Object.keys(view.filters).length;
      panel.hidden = columns.length === 0 && chosen === 0;
      panel.querySelector("summary").textContent = chosen ? `Filters (${chosen})` : "Filters";
      clear.hidden = chosen === 0;
      if (drawn === keyOf(view.filters)) return;
      drawn = keyOf(view.filters);
      form.replaceChildren(...facets(columns, view.filters, choose), clear);
    },
  };
}

function openWhereThereIsRoom(details) {
  const room = matchMedia("(min-width: 60rem)");
  const follow = () => (details.open = room.matches);
  room.addEventListener("change", follow);
  follow();
}
