/** The list of tabs, as the ARIA practices have it: arrows move, and what is reached is shown. */

/** `chosen(name)` is called with the name of the panel that the user asks for. */
export function tabs(chosen) {
  const all = [...document.querySelectorAll("[role=tab]")];
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
        document.getElementById(nameOf(tab)).hidden = !selected;
      }
    },
  };
}
