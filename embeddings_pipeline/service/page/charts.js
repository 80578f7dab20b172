/** Drawings of figures over time: bars for runs, a line for measurements. */

import { drawing, element } from "./elements.js";
import { moment } from "./format.js";

// places for bars, so that one run is no wall, and the height of a drawing, in its own units
const [PLACES, HEIGHT] = [30, 40];

/**
 * Bars one after the other, the oldest first. `parts` are [class, numbers], stacked from below;
 * `titles` say what each bar means.
 */
export function bars(parts, titles, label) {
  const sums = titles.map((_, n) => parts.reduce((sum, [, values]) => sum + values[n], 0));
  const most = Math.max(...sums) || 1;
  return drawing(
    "svg",
    {
      class: "chart",
      viewBox: `0 0 ${Math.max(PLACES, titles.length)} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": label,
    },
    titles.map((title, x) => {
      let top = HEIGHT - 1;
      return drawing(
        "g",
        {},
        drawing("title", {}, title),
        drawing("rect", { class: "column", x, y: 0, width: 1, height: HEIGHT }),
        drawing("rect", { class: "base", x: x + 0.1, y: top, width: 0.8, height: 1 }),
        parts.map(([name, values]) => {
          const height = (values[x] / most) * (HEIGHT - 1);
          top -= height;
          return drawing("rect", { class: name, x: x + 0.1, y: top, width: 0.8, height });
        }),
      );
    }),
  );
}

/**
 * A line through measurements, [time, value], the oldest first, over the declared `target`, and what
 * the lowest and the highest line stand for.
 */
export function line(points, target, label) {
  const values = points.map(([, value]) => value);
  const low = Math.floor(10 * Math.min(...values, target ?? 1) - 1e-9) / 10;
  const [from, to] = [points[0][0], points.at(-1)[0]].map(Date.parse);
  const x = (time) => (to > from ? (100 * (Date.parse(time) - from)) / (to - from) : 50);
  const y = (value) => 2 + ((1 - value) / (1 - low)) * (HEIGHT - 4);
  const across = (value, name) =>
    drawing("line", { class: name, x1: 0, x2: 100, y1: y(value), y2: y(value) });
  return element(
    "div",
    { className: "measured" },
    element("span", { className: "quiet" }, "1"),
    drawing(
      "svg",
      {
        class: "chart",
        viewBox: `0 0 100 ${HEIGHT}`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": label,
      },
      across(1, "edge"),
      across(low, "edge"),
      target !== null && across(target, "target"),
      drawing("polyline", {
        class: "line",
        points: points.map(([time, value]) => `${x(time)},${y(value)}`).join(" "),
      }),
      points.map(([time, value]) =>
        // a line of no length with round ends stays a dot when the drawing is stretched
        drawing(
          "path",
          { class: "dot", d: `M${x(time)} ${y(value)}h0` },
          drawing("title", {}, `${moment(time)}: ${value.toFixed(3)}`),
        ),
      ),
    ),
    element("span", { className: "quiet" }, String(low)),
  );
}
