/** What is drawn over the cells of a map: numbers, columns that are set aside, frames around what is in focus; and all of the map, small. */

import { fit, hatch, shadeOf } from "./draw.ts";
import type { Paint } from "./draw.ts";
import type { Region, WeightMap } from "./math.ts";
import { isWeight, MASKED, PADDED } from "./math.ts";
import { edgeOf, pitchOf, SMALL, TITLES } from "./plan.ts";
import type { Layout } from "./plan.ts";
import type { Palette, Rgb } from "./theme.ts";
import { contrast, css } from "./theme.ts";
import { seen, spanOf } from "./window.ts";
import type { Sight } from "./window.ts";

const PRINTED = 38; // pixels of a cell that has room for its number

export const inSight = ({ rows, cols }: Layout): Region => {
  const [[r0, r1], [c0, c1]] = [seen(rows), seen(cols)];
  return { r0, r1, c0, c1 };
};

/** The strongest weight of a block (of differences, the one furthest from 0); where there is none, its first cell. */
export function strongestIn(map: WeightMap, { r0, r1, c0, c1 }: Region): { query: number; key: number } {
  const cells = map.tile(r0, r1, c0, c1);
  const size = (cell: number): number => (isWeight(cell) ? Math.abs(cell) : cell);
  let most = 0;
  for (let at = 1; at < (r1 - r0) * (c1 - c0); at++) if (size(cells[at]) > size(cells[most])) most = at;
  return { query: r0 + Math.floor(most / (c1 - c0)), key: c0 + (most % (c1 - c0)) };
}

/** The stored cells of a pooled map that a block touches, as the weights they stand for. */
export function storedBlock({ nq, nk, step: [sr, sc] }: Pick<WeightMap, "nq" | "nk" | "step">, { r0, r1, c0, c1 }: Region): Region {
  const out = (start: number, end: number, step: number, n: number): readonly [number, number] => [Math.floor(start / step) * step, Math.min(n, Math.ceil(end / step) * step)];
  const [[from, to], [left, right]] = [out(r0, r1, sr, nq), out(c0, c1, sc, nk)];
  return { r0: from, r1: to, c0: left, c1: right };
}

/** Which signs there are among cells, and the largest weight. */
export function signsIn(cells: Float32Array): { masked: boolean; padded: boolean; nan: boolean; most: number } {
  const signs = { masked: false, padded: false, nan: false, most: 0 };
  for (const cell of cells) {
    if (cell > signs.most) signs.most = cell;
    if (cell === MASKED) signs.masked = true;
    else if (cell === PADDED) signs.padded = true;
    else if (cell !== cell) signs.nan = true;
  }
  return signs;
}

/** .62 in a cell: as a number on its own, in as few characters as it can be. */
export function cellText(weight: number, signed: boolean): string {
  const size = Math.abs(weight);
  const digits = size >= 0.995 ? size.toFixed(1) : size < 0.005 ? (size === 0 ? "0" : "·") : size.toFixed(2).slice(1);
  return signed && size >= 0.005 ? `${weight < 0 ? "−" : "+"}${digits}` : digits;
}

/** Numbers in the cells that have room for them; `read` has the exact weights of what is in sight, if they are known. */
export function drawNumbers(pen: CanvasRenderingContext2D, at: Layout, read: WeightMap | null, paint: Paint, aside: readonly number[], ink: Rgb, text: (cell: number) => string): void {
  const { rows, cols } = at;
  if (read === null || Math.min(pitchOf(rows), pitchOf(cols)) < PRINTED) return;
  const { r0, r1, c0, c1 } = inSight(at);
  const cells = read.tile(r0, r1, c0, c1);
  pen.font = `11px ${getComputedStyle(pen.canvas).fontFamily}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  for (let i = r0, n = 0; i < r1; i++) {
    for (let j = c0; j < c1; j++, n++) {
      if (!isWeight(cells[n])) continue;
      pen.fillStyle = aside.includes(j) ? css(ink) : legibleOn(paint.lut[shadeOf(cells[n], paint, read.allowed(i))]);
      pen.fillText(text(cells[n]), edgeOf(cols, j + 0.5), edgeOf(rows, i + 0.5) + 0.5);
    }
  }
}

const BLACK: Rgb = [0, 0, 0];

/** Black or white, whichever is told better from a pixel: both are told alike from one that is 4.58 : 1 to black. */
const legibleOn = (pixel: number): string => (contrast(BLACK, [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255]) > 4.58 ? "#000" : "#fff");

/** Columns that are set aside: hatched, leaning the other way than padding. */
export function drawAside(pen: CanvasRenderingContext2D, { cols, width, height }: Layout, aside: readonly number[], { soft }: Palette): void {
  if (aside.length === 0) return;
  pen.save();
  pen.scale(-1, 1);
  pen.fillStyle = hatch(pen, css(soft, 0.6));
  pen.strokeStyle = css(soft);
  for (const key of aside) {
    const [x, wide] = [edgeOf(cols, key), Math.max(2, pitchOf(cols))];
    if (x + wide < 0 || x > width) continue;
    pen.fillRect(-x, 0, -wide, height);
    if (wide >= 4) pen.strokeRect(-x - 0.5, 0.5, 1 - wide, height - 1);
  }
  pen.restore();
}

/** Frames around rows and a column; what comes from place `later` on is veiled. */
export function drawFrames(canvas: HTMLCanvasElement, { rows, cols, width, height }: Layout, queries: Iterable<number>, key: number | null, later: number | null, { ground, accent }: Palette): void {
  const pen = fit(canvas, width, height);
  if (later !== null) {
    pen.fillStyle = css(ground, 0.86);
    pen.fillRect(0, edgeOf(rows, later), width, rows.n * pitchOf(rows));
  }
  pen.strokeStyle = pen.fillStyle = css(accent);
  const frame = (x: number, y: number, w: number, h: number): void => {
    const thin = Math.min(w, h);
    const line = (pen.lineWidth = thin < 5 ? 1 : 1.5);
    if (thin < 3) pen.fillRect(x, y, Math.max(w, 1), Math.max(h, 1));
    else pen.strokeRect(x + line / 2, y + line / 2, w - line, h - line);
  };
  for (const query of queries) frame(0, edgeOf(rows, query), width, pitchOf(rows));
  if (key !== null) frame(edgeOf(cols, key), 0, pitchOf(cols), height);
}

/** All of the map in the corner, with a frame around what is in sight. */
export function drawSmall(canvas: HTMLCanvasElement, image: HTMLCanvasElement, { rows, cols, left, top, width, height, gaps }: Layout, { panel, ground, accent }: Palette): void {
  const scale = Math.min((left - 12) / width, (top - gaps[1] - TITLES - 2) / height, SMALL / Math.max(width, height));
  const [w, h] = [width, height].map((size) => Math.max(12, Math.round(size * scale)));
  const pen = fit(canvas, w, h);
  canvas.style.transform = `translate(${left - 10 - w}px, 0)`;
  pen.fillStyle = css(panel);
  pen.fillRect(0, 0, w, h);
  pen.drawImage(image, 0, 0, w, h);
  const side = (sight: Sight, size: number): readonly [number, number] => {
    const long = Math.max(5, size * Math.min(1, spanOf(sight) / sight.n));
    return [Math.min(size - long, (size * sight.from) / sight.n), long];
  };
  const [[y, tall], [x, wide]] = [side(rows, h), side(cols, w)];
  for (const [colour, line] of [[ground, 4], [accent, 1.5]] as const) {
    pen.strokeStyle = css(colour);
    pen.lineWidth = line;
    pen.strokeRect(x + 1, y + 1, wide - 2, tall - 2);
  }
}
