/** Values and names as people read them, in the language of their browser. */

const SIGNIFICANT = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const NUMBER = /^(smallint|integer|bigint|numeric|real|double precision)/;
const UNITS = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
];
// the ends of column names that say in what a value is measured
const MEASURES = {
  kb: "KB",
  mb: "MB",
  gb: "GB",
  bytes: "bytes",
  ms: "ms",
  s: "s",
  km: "km",
  kg: "kg",
  usd: "USD",
  eur: "EUR",
};

/** How a column of this Postgres type is compared: number, date, time or text. */
export function kindOf(type = "") {
  // a filter on a list takes one of its elements
  if (type.endsWith("[]")) return "text";
  if (NUMBER.test(type)) return "number";
  if (type === "date") return "date";
  return type.startsWith("timestamp") ? "time" : "text";
}

/** "Installed size (KB)" for installed_size_kb, "Active" for is_active. */
export function label(column) {
  const words = column
    .replace(/^(is|has)_/, "")
    .split("_")
    .filter(Boolean);
  const measure = words.length > 1 ? MEASURES[words.at(-1)] : undefined;
  if (measure) words.pop();
  const name = words.join(" ") || column;
  return name[0].toUpperCase() + name.slice(1) + (measure ? ` (${measure})` : "");
}

/** A value of a column, as text. */
export function shown(value, column = "", type = "") {
  if (value == null) return "none";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map((one) => shown(one, column)).join(", ");
  if (typeof value === "object") return JSON.stringify(value);
  const kind = kindOf(type);
  // a year has no thousands
  if (typeof value === "number") return /year/i.test(column) ? String(value) : number(value);
  if (kind === "date" || kind === "time") return date(value, kind);
  return String(value);
}

function date(text, kind) {
  const moment = new Date(text);
  // infinity and years before Christ are beyond the browser's dates
  if (Number.isNaN(moment.getTime())) return text;
  return (kind === "date" ? DAY : MOMENT).format(moment);
}

const number = (value) => value.toLocaleString(undefined, { maximumFractionDigits: 6 });

/** A day and its time. */
export const moment = (text) => MOMENT.format(new Date(text));

/** 0.0328, 0.353, 12.4: scores of different ways to rank differ in size. */
export const score = (value) => SIGNIFICANT.format(value);

/** 12,345 */
export const whole = (value) => value.toLocaleString();

/** "1 row", "12,345 rows" */
export const counted = (value, one, several = `${one}s`) =>
  `${whole(value)} ${value === 1 ? one : several}`;

/** A percentage that says 100 only where nothing is missing. */
export function percent(value) {
  if (value == null) return "none";
  return `${Math.floor(value * 10) / 10} %`;
}

/** 4.2 s, 42 s, 3 min, 5 h, 2 d */
export function duration(seconds) {
  const [unit, size] = UNITS.find(([, least]) => seconds >= least) ?? ["s", 1];
  return `${size === 1 && seconds < 10 ? seconds.toFixed(1) : Math.round(seconds / size)} ${unit}`;
}

/** $0, $0.0042, $12.30 */
export function dollars(value) {
  return value === 0 ? "$0" : `$${value < 1 ? value.toPrecision(2) : value.toFixed(2)}`;
}
