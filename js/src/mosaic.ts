/** The pictures of many heads on one canvas. What is in sight is painted, in pieces, once; panning copies the pieces. */

import type { Cell, Grid, Order, Places } from "./grid.ts";
import { cellsIn, cornerOf, placeOf, valueOf } from "./grid.ts";
import type { Palette } from "./theme.ts";
import { css, pixel, ramp } from "./theme.ts";
import type { Inks, Thumbs } from "./thumbs.ts";
import { codesOf, marksOf, paintThumb } from "./thumbs.ts";
import type { Measure, Reduce } from "./wire.ts";

/** Cells of fewer pixels are glyphs: a few marks, or one colour where there is a number to show; of more, whole maps. */
export const GLYPH = 16;
export const WHOLE = 140;

/** A number for each head, and where the scale of it begins and ends. */
export interface Scored {
  measure: Measure;
  range: readonly [low: number, high: number];
  /** Heads below it are dimmed. */
  least: number | null;
}

/** What the heads are drawn from. */
export interface Scene {
  grid: Grid;
  order: Order;
  palette: Palette;
  reduce: Reduce;
  scored: Scored | null;
  ratio: number;
}

export interface Picture extends Scene {
  thumbs: Thumbs;
  inks: Inks;
}

export const scoreOf = (scored: Scored | null, cell: Cell): number | null => (scored === null ? null : valueOf(scored.measure.values, cell));

/** Lays a veil over a picture whose head has too little of what heads are sorted by. */
export function veil(pen: CanvasRenderingContext2D, { scored, palette }: Scene, cell: Cell, x: number, y: number, size: number): void {
  const least = scored?.least ?? null;
  if (least === null || cell.layer === null || cell.head === null || (scoreOf(scored, cell) ?? -Infinity) >= least) return;
  pen.fillStyle = css(palette.ground, 0.82);
  pen.fillRect(x, y, size, size);
}

interface Piece {
  canvas: HTMLCanvasElement;
  x: number; // the screen's pixels
  y: number;
}

const PIECE = 384; // pixels along a side, about
const KEPT = 60; // pieces besides those in sight

export class Mosaic {
  #picture: Picture | null = null;
  readonly #pieces = new Map<string, Piece>(); // oldest use first

  show(picture: Picture | null): void {
    this.#picture = picture;
    this.#pieces.clear();
  }

  /** Draws what lies in a window of the grid; `pen` is in the screen's pixels. */
  draw(pen: CanvasRenderingContext2D, { r0, r1, c0, c1 }: Places, x: number, y: number): void {
    const picture = this.#picture;
    if (picture === null) return;
    const { grid, ratio } = picture;
    const side = Math.max(1, Math.floor(PIECE / (grid.cell + grid.gap)));
    let used = 0;
    for (let r = r0 - (r0 % side); r < r1; r += side) {
      for (let c = c0 - (c0 % side); c < c1; c += side) {
        const key = `${r}/${c}`;
        const piece = this.#pieces.get(key) ?? paintPiece(picture, { r0: r, r1: Math.min(r + side, grid.layers + 1), c0: c, c1: Math.min(c + side, grid.heads + 1) });
        this.#pieces.delete(key);
        this.#pieces.set(key, piece);
        used++;
        pen.drawImage(piece.canvas, piece.x - Math.round(x * ratio), piece.y - Math.round(y * ratio));
      }
    }
    for (const key of [...this.#pieces.keys()].slice(0, -used - KEPT)) this.#pieces.delete(key);
  }
}

/** The heads at some places, with what stands under them. */
function paintPiece(picture: Picture, places: Places): Piece {
  const { grid, order, thumbs, inks, palette, reduce, scored, ratio } = picture;
  const at = (pixels: number): number => Math.round(pixels * ratio);
  const corner = (row: number, col: number): number[] => cornerOf(grid, { row, col }).map(at);
  const [size, room] = [at(grid.cell), at(grid.gap)];
  const [[x, y], [right, bottom]] = [corner(places.r0, places.c0), corner(places.r1 - 1, places.c1 - 1)];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [right + size + room - x, bottom + size + room - y];
  const pen = canvas.getContext("2d");
  if (pen === null) return { canvas, x, y };
  const image = new ImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const lut = ramp(palette, "linear");
  const thick = Math.max(1, room - at(1));
  const stands = cellsIn(order, places).map((cell) => {
    const { row, col } = placeOf(order, cell);
    const [left, top] = corner(row, col);
    const value = scoreOf(scored, cell);
    const [low, high] = scored?.range ?? [0, 0];
    return { cell, left: left - x, top: top - y, share: value === null ? null : high > low ? (value - low) / (high - low) : 1 };
  });
  const flat = ({ layer, head }: Cell): boolean => grid.cell < GLYPH && scored !== null && layer !== null && head !== null;
  for (const { cell, left, top, share } of stands) {
    const box = { pixels, stride: canvas.width, at: top * canvas.width + left, width: size, height: size };
    if (!flat(cell)) paintThumb(thumbs, codesOf(thumbs, cell, reduce), inks(cell.layer), box, marksOf(grid.cell));
    else for (let down = 0; down < size; down++) pixels.fill(share === null ? pixel(palette.line) : lut[Math.round(255 * share)], box.at + down * box.stride, box.at + down * box.stride + size);
  }
  pen.putImageData(image, 0, 0);
  for (const { cell, left, top, share } of stands) {
    veil(pen, picture, cell, left, top, size);
    if (share === null || flat(cell)) continue;
    for (const [colour, length] of [[palette.line, size], [palette.soft, Math.max(1, Math.round(size * share))]] as const) {
      pen.fillStyle = css(colour);
      pen.fillRect(left, top + size, length, thick);
    }
  }
  return { canvas, x, y };
}
