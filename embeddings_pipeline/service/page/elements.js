/** The one way in which this page makes elements: what comes from data is text, never markup. */

/**
 * An element with these properties (attributes, where it has no such property) and children.
 * Strings become text; null and undefined are left out.
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

/** The element of the page with this id. */
export const byId = (id) => document.getElementById(id);
