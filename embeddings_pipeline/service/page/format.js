/** Values as people read them. */

const SIGNIFICANT = new Intl.NumberFormat("en", {
  minimumSignificantDigits: 3,
  maximumSignificantDigits: 3,
  useGrouping: false,
});
const UNITS = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
];

/** 0.0328, 0.353, 12.4: scores of different ways to rank differ in size. */
export const score = (value) => SIGNIFICANT.format(value);

/** 12,345 */
export const whole = (value) => value.toLocaleString("en");

/** "1 row", "12,345 rows" */
export const counted = (value, noun) => `${whole(value)} ${noun}${value === 1 ? "" : "s"}`;

/** A percentage that says 100 only where nothing is missing. */
export function percent(value) {
  if (value == null) return "none";
  const cut = Math.floor(value * 10) / 10;
  return `${cut} %`;
}

/** 42 s, 3 min, 5 h, 2 d */
export function duration(seconds) {
  const [unit, size] = UNITS.find(([, least]) => seconds >= least) ?? ["s", 1];
  return `${size === 1 && seconds < 10 ? seconds.toFixed(1) : Math.round(seconds / size)} ${unit}`;
}

/** $0, $0.0042, $12.30 */
export function dollars(value) {
  return value === 0 ? "$0" : `$${value < 1 ? value.toPrecision(2) : value.toFixed(2)}`;
}

/** A field of a row, as text. */
export function plain(value) {
  if (value === null) return "none";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
