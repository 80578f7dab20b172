/** What the page shows where the service gives no answer: what happened, and the next step. */

import { key } from "./api.js";
import { button, byId, element } from "./elements.js";

// what a header can carry
const SENDABLE = /^[\x21-\x7e]+$/;
const TITLES = {
  0: "The service is away",
  403: "This key may not do that",
  404: "Not found",
  409: "A run is needed first",
  422: "This cannot be searched",
  429: "Too many searches at once",
  503: "The service is busy",
};

/** `admitted()` is called when there is a new key to try. */
export function problems(admitted) {
  const form = byId("access");
  const field = byId("key");
  const said = byId("key-said");
  let retry = null;

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

  function askForKey(text) {
    said.textContent = text;
    form.hidden = false;
    field.focus();
  }

  return {
    /**
     * Show in `place` why a request failed, and the `steps` that may help, as buttons. What may
     * pass by itself is tried `again` after a while. Where a key is needed, the reader is asked for one.
     */
    refused(problem, place, again, steps = []) {
      clearTimeout(retry);
      if (problem.status === 401) {
        place.replaceChildren();
        askForKey(key.get() ? sentence(problem.message) : "");
        return;
      }
      const waits = problem.wait !== null;
      // not where something else is shown meanwhile
      const retrying = () => place.querySelector(".problem") && again();
      if (waits) retry = setTimeout(retrying, 1_000 * problem.wait);
      const title = TITLES[problem.status] ?? "The service failed";
      // a notice that stays is not read out again
      if (place.querySelector(".problem p")?.textContent === sentence(problem.message)) return;
      place.replaceChildren(
        element(
          "div",
          { className: "notice problem", role: "alert" },
          element("h2", {}, title),
          element("p", {}, sentence(problem.message)),
          waits && element("p", { className: "quiet" }, "The page tries again by itself."),
          element(
            "div",
            { className: "steps" },
            steps,
            problem.status === 403 && button("Use another key", () => askForKey("")),
            button("Try again", again),
          ),
        ),
      );
    },
  };
}

function sentence(text) {
  const capital = text[0].toUpperCase() + text.slice(1);
  return /[.!?)]$/.test(capital) ? capital : `${capital}.`;
}
