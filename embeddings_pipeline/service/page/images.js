/** Images to search by. They fit into no address: the history has their numbers. */

const files = new Map();

/** Keep a file for as long as the page lives; the answer is its number. */
export function keep(file) {
  const number = Date.now();
  files.set(number, file);
  return number;
}

/** The file of a number; undefined where it was kept before the page was loaded anew. */
export const kept = (number) => files.get(number);
