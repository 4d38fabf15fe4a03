/** What stands around the heads: their numbers, what they share, how far their layers look, and where the window is. Drawn, since it moves with every frame. */

import { valueText } from "./a11y.ts";
import { every, headersOf, isMovable, layerMean, leftOf, ordinal, sharedAlike } from "./grid.ts";
import type { Scene } from "./mosaic.ts";
import { titleOf } from "./sorting.ts";
import { css } from "./theme.ts";

/** What is in sight, in pixels of the grid. */
export interface Window {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Numbers along both axes, which stay when the heads are moved, thinned out where they would crowd; and where the window is. */
export function drawHeaders(pen: CanvasRenderingContext2D, scene: Scene, { x, y, width, height }: Window): void {
  const { grid, order, scored, palette, reduce } = scene;
  const { cell, gap, heads, layers, lanes, tops } = grid;
  const { left, top } = headersOf(grid);
  const pitch = cell + gap;
  const end = leftOf(grid, heads) - x;
  const movable = isMovable(grid, { width, height });
  pen.textBaseline = "middle";
  pen.strokeStyle = css(palette.soft);
  const write = (text: string, across: number, down: number, align: CanvasTextAlign, most?: number): void => {
    pen.textAlign = align;
    pen.fillText(text, across, down, most);
  };
  /** The middle of what is seen of a stretch. */
  const middle = (from: number, to: number, low: number, high: number): number => (Math.max(from, low) + Math.min(to, high)) / 2;
  const strip = (x0: number, y0: number, x1: number, y1: number, covers: boolean, draw: () => void): void => {
    pen.save();
    pen.beginPath();
    pen.rect(x0, y0, x1 - x0, y1 - y0);
    pen.clip();
    pen.fillStyle = css(palette.ground);
    if (covers) pen.fill();
    pen.fillStyle = css(palette.soft);
    draw();
    pen.restore();
  };
  const column = (col: number, text: string, down: number): void => {
    const at = leftOf(grid, col) - x;
    if (at + cell > left && at < width) write(text, middle(at, at + cell, left, width), down, "center");
  };
  const side = (row: number, text: string): void => {
    const at = tops[row] - y;
    if (at + cell > top && at < height) write(text, lanes.left + 19, middle(at, at + cell, top, height), "right");
  };
  const rows = every(layers, pitch, 13).filter((row) => order.part.layers[order.layers[row]].heads > 0);
  if (scored !== null) {
    strip(left, top, width, height, false, () => {
      for (const head of every(heads, pitch, 18)) column(head, String(head), tops[layers] + cell + 10 - y);
      for (const row of rows) {
        const mean = layerMean(scored.measure.values, order.layers[row]);
        if (mean !== null) write(valueText(mean), end + cell + 6, tops[row] + cell / 2 - y, "left");
      }
    });
  }
  strip(left, 0, width, top, movable, () => {
    const down = lanes.top + 7;
    for (const col of every(heads, pitch, order.sorted ? 30 : 18)) if (leftOf(grid, col) + 18 < end + x - Math.max(0, 26 - cell)) column(col, order.sorted ? ordinal(col + 1) : String(col), down);
    if (cell < 30) write(reduce, end + cell, down, "right");
    else column(heads, reduce, down);
    if (scored !== null) write(titleOf(scored.measure), end + cell + 6, down, "left", lanes.right - 4);
    for (const [n, [from, to]] of lanes.top > 0 ? (sharedAlike(order.part) ?? []).entries() : []) {
      const [x0, x1] = [leftOf(grid, from) - x, leftOf(grid, to - 1) + cell - x];
      pen.beginPath();
      for (const [across, at] of [[x0 + 0.5, 15], [x0 + 0.5, 12.5], [x1 - 0.5, 12.5], [x1 - 0.5, 15]]) pen.lineTo(across, at);
      pen.stroke();
      if (x1 - x0 >= 16 && x1 > left && x0 < width) write(x1 - x0 >= 50 ? `K/V ${n}` : String(n), middle(x0, x1, left, width), 6, "center");
    }
  });
  strip(0, top, left, height, movable, () => {
    for (const row of rows) side(row, String(order.layers[row]));
    side(layers, reduce === "mean" ? "x̄" : reduce);
    if (lanes.left > 0) drawBadges(pen, scene, y);
  });
  strip(0, 0, left, top, movable, () => { if (lanes.top > 0) write("K/V", 2, 6, "left"); });
  pen.fillStyle = css(palette.soft, 0.55);
  const [wide, tall] = [width - left, height - top];
  if (grid.width > width + 1) pen.fillRect(left + (wide * x) / grid.width, height - 3, (wide * width) / grid.width, 3);
  if (grid.height > height + 1) pen.fillRect(width - 3, top + (tall * y) / grid.height, 3, (tall * height) / grid.height);
}

/** How far each layer looks back: "L" or "G", or a mark where there is no room for letters. */
function drawBadges(pen: CanvasRenderingContext2D, { grid: { tops, cell, gap }, order, palette }: Scene, y: number): void {
  const letters = cell + gap >= 13;
  const [wide, tall] = letters ? [13, 12] : [8, cell - 1];
  pen.textAlign = "center";
  for (const [row, layer] of order.layers.entries()) {
    const { heads, window } = order.part.layers[layer];
    if (heads === 0) continue;
    const middle = tops[row] + cell / 2 - y;
    pen.fillStyle = css(palette.soft);
    if (window === null) pen.strokeRect(1.5, Math.round(middle - tall / 2) + 0.5, wide, tall);
    else pen.fillRect(1, Math.round(middle - tall / 2), wide + 1, tall + 1);
    if (window !== null) pen.fillStyle = css(palette.ground);
    if (letters) pen.fillText(window === null ? "G" : "L", 8, middle + 1);
  }
}
