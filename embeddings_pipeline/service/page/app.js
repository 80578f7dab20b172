/** The page: two views of one address, and what to do when the service does not answer. */

import * as address from "./address.js";
import { byId } from "./elements.js";
import { installKeys, tabs } from "./keyboard.js";
import { problems } from "./problems.js";
import { searchView } from "./search.js";
import { stateView } from "./state.js";

let view = address.read();

/** Show something else: the changes of what is shown, as address.js names them. */
function go(changes, { typed = false } = {}) {
  view = { ...view, ...changes };
  if (typed) address.writeAfterTyping(view);
  else address.write(view);
  show();
}

function show() {
  tab.show(view.tab);
  state.show(view);
  if (view.tab === "search") search.show(view);
  const about =
    view.tab === "state" ? ["State", view.of, "Search"] : [view.query, view.entity, "Search"];
  document.title = about.filter(Boolean).join(" · ");
}

const door = problems(() => {
  search.forget();
  state.forget();
  show();
});
const search = searchView({ go, refused: door.refused });
const state = stateView({ go, refused: door.refused });
const tab = tabs(byId("views"), (name) => go({ tab: name, of: null }));

installKeys({
  query: byId("query"),
  results: byId("results"),
  toSearch: () => view.tab !== "search" && go({ tab: "search" }),
  back: () => search.leaveLike(),
});
window.addEventListener("popstate", () => {
  view = address.read();
  show();
});
show();
// a phone would cover half of the page with its keyboard
if (view.tab === "search" && matchMedia("(hover: hover)").matches) byId("query").focus();
