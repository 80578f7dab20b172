/** The field for a key, shown when the service answers 401. */

import { key } from "./api.js";
import { byId, element } from "./elements.js";

// what a header can carry
const SENDABLE = /^[\x21-\x7e]+$/;

/** `admitted()` is called when there is a new key to try. */
export function access(admitted) {
  const form = byId("access");
  const field = byId("key");
  const said = byId("key-said");

  form.onsubmit = (event) => {
    event.preventDefault();
    const given = field.value.trim();
    if (!SENDABLE.test(given)) {
      said.textContent = "A key has no spaces and only plain letters, digits and signs.";
      return;
    }
    key.set(given);
    form.hidden = true;
    said.textContent = "";
    field.value = "";
    admitted();
  };

  return {
    /** Show in `place` why a request failed; ask for a key where one is needed. */
    refused(problem, place, again) {
      if (problem.status === 401) {
        place.replaceChildren();
        said.textContent = key.get()
          ? `${problem.message[0].toUpperCase()}${problem.message.slice(1)}.`
          : "";
        form.hidden = false;
        field.focus();
        return;
      }
      place.replaceChildren(
        element(
          "div",
          { className: "problem", role: "alert" },
          element("h2", {}, problem.title),
          element("p", {}, problem.message),
          element("button", { type: "button", onclick: again }, "Try again"),
        ),
      );
    },
  };
}
