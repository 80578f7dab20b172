/** The page: two views of one address, and what to do when the service asks for a key. */

import { access } from "./access.js";
import * as address from "./address.js";
import { byId } from "./elements.js";
import { installKeys } from "./keyboard.js";
import { searchView } from "./search.js";
import { stateView } from "./state.js";
import { tabs } from "./tabs.js";

let view = address.read();

/** Show something else: the changes of what is shown, as address.js names them. */
function go(changes, options) {
  view = { ...view, ...changes };
  address.write(view, options);
  show();
}

function show() {
  tab.show(view.tab);
  state.show(view.tab === "state");
  if (view.tab === "search") search.show(view);
  const about = [view.tab === "state" ? "State" : view.query, view.entity, "Search"];
  document.title = about.filter(Boolean).join(" · ");
}

const door = access(() => {
  search.forget();
  state.forget();
  show();
});
const search = searchView({ go, refused: door.refused });
const state = stateView({ refused: door.refused });
const tab = tabs((name) => go({ tab: name }));

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
