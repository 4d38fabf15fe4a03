/** What stands around arcs: names of columns, brackets of tokens that belong together, samples of lines. */

import { element } from "./a11y.ts";
import { fit, marker, MARKERS, tapers } from "./draw.ts";
import { boundaries, brackets, LANE } from "./label.ts";
import type { Layout, Side } from "./layout.ts";
import { spanOf } from "./layout.ts";
import type { Strands } from "./strands.ts";
import type { Palette } from "./theme.ts";
import type { Axis } from "./wire.ts";

/** The brackets of what belongs together, and where it begins that something was generated. */
export function groupings(layout: Layout, axes: Readonly<Record<Side, Axis>>, same: boolean): HTMLElement[] {
  const upright = layout.along === "x";
  const span = (side: Side) => (from: number, to: number): readonly [start: number, size: number] => {
    const [[start], [last, size]] = [spanOf(layout, side, from), spanOf(layout, side, to - 1)];
    return [start + 2, last + size - start - 4];
  };
  const brace = (side: Side, open: "right" | "left", across: number, down: number): HTMLElement[] =>
    brackets(axes[side], upright ? "down" : open, upright ? down : across, span(side));
  const { left } = layout.number("query", 0);
  const end = axes.query === axes.key ? layout.number("key", 0) : layout.token("query", 0);
  const lines = boundaries(axes.query).map((i) => {
    const [start, size] = span("query")(i - 1, i + 1);
    const at = start + size / 2; // between two tokens
    return element("div", upright
      ? { class: "attn-boundary attn-upright", style: `left: ${at}px; top: 0; height: ${layout.height}px` }
      : { class: "attn-boundary", style: `top: ${at}px; left: ${left}px; width: ${end.left + end.width - left}px` });
  });
  const asking = same ? [] : brace("query", "right", layout.token("query", 0).left, layout.height - LANE);
  return [...lines, ...asking, ...brace("key", "left", layout.number("key", 0).left - LANE, 0)];
}

/** The names of the columns; `leaves` is that of what rows give to no key. */
export function headings(layout: Layout, same: boolean, sum: string, leaves: HTMLElement): HTMLElement[] {
  const heading = (text: string, left: number, width: number, where: string): HTMLElement => element("span", { class: `attn-${where}`, style: `left: ${left}px; width: ${width}px` }, text);
  if (layout.along === "x") return [heading(sum !== "" || same ? sum : "keys above, queries below", 0, layout.view, "middle")];
  const [[near, far], query, key, from, to] = [layout.arcs, layout.token("query", 0), layout.token("key", 0), layout.number("query", 0), layout.number("key", 0)];
  Object.assign(leaves.style, { left: `${from.left - 20}px`, width: `${from.width + 10}px` });
  return [
    heading("query", query.left, query.width, "end"), heading("attends to →", near, far - near, "middle"), heading("key", key.left, key.width, "start"), leaves,
    heading(sum, key.left + 36, to.left + to.width - key.left - 36, "sum"),
  ];
}

/** What the lines of several heads, or of differences between two `sides`, look like. */
export function samples(strands: Strands, palette: Palette, [a, b]: readonly string[]): HTMLElement[] {
  const sample = (words: string, strand: number, weight = 0.4): HTMLElement => {
    const canvas = element("canvas", { "aria-hidden": "true" });
    const pen = fit(canvas, 38, 14);
    tapers(pen, [{ curve: [2, 7, 12, 7, 22, 7, 32, 7], weight }], strands.stroke(palette, { query: 0, key: 0, strand, weight }), 6);
    if (strands.several) marker(pen, strand, 32, 7, 7);
    return element("span", { role: "listitem" }, canvas, words);
  };
  return [
    ...strands.all.flatMap(({ head }, n) => (head === null ? [] : [sample(`${n + 1} ${MARKERS[n]} layer ${head[0]} · head ${head[1]}`, n)])),
    ...(strands.signed ? [sample(`more in ${a} than in ${b}`, 0), sample("less", 0, -0.4)] : []),
  ];
}
