/** Where the parts of a heat map stand: cells, labels, margins. Lengths are CSS pixels, but for sights, which count the screen's. */

import { pixelRatio } from "./draw.ts";
import type { Sight } from "./window.ts";
import { startOf, wholeOf } from "./window.ts";

export interface Layout {
  /** What is in sight of either axis. */
  rows: Sight;
  cols: Sight;
  /** Around the cells and of the cells. */
  left: number;
  right: number;
  top: number;
  width: number;
  height: number;
  /** Between the labels and the cells: for the queries, and for the keys. */
  gaps: readonly [left: number, top: number];
}

export interface Around {
  /** Widths of the widest token on either side. */
  query: number;
  key: number;
  lanes: readonly [query: number, key: number];
  /** Whether bars stand along the margins, and bars of what leaves. */
  bars: boolean;
  leaks: boolean;
}

/** Of the bars along the margins, and between them and the map. */
export const BARS = { rise: 34, run: 52, leak: 36, above: 5, beside: 8 };
export const LARGEST = 44; // of a cell, and as close as one can look
export const SMALL = 76; // of the small map in the corner
export const TITLES = 16; // height of the names of the axes
const TALLEST = 620; // of the map
const SHORTEST = 180; // of a side, unless its cells are as large as cells get
const SLANT = { rise: 0.82, run: 0.58 }; // of the key labels, which lean to the right

/** Cells are square and a whole number of the screen's pixels, or of weights to a pixel; a side that would get too thin is stretched. */
export function layOut(nq: number, nk: number, width: number, { query, key, lanes, bars, leaks }: Around, ratio: number): Layout {
  const gaps = [6 + lanes[0], 6 + lanes[1] + (bars ? BARS.rise + BARS.above : 0)] as const;
  const keyLabel = Math.min(key, 110);
  const crowded = Math.max(nk / (width - 200), nq / TALLEST) > 1 / 12;
  const [leftmost, highest] = crowded ? [SMALL + 12, SMALL + TITLES] : [0, TITLES];
  const left = Math.ceil(Math.max(Math.min(query + 12 + gaps[0], width * (width < 520 ? 0.24 : 0.3)), leftmost, bars ? 64 : 48));
  const top = Math.ceil(Math.max(keyLabel * SLANT.rise + 10, highest) + gaps[1]);
  const right = Math.max((bars ? BARS.beside + BARS.run : 0) + (leaks ? BARS.beside + BARS.leak : 0) + 8, Math.ceil(keyLabel * SLANT.run));
  const [across, down] = [Math.max(40, width - left - right) * ratio, TALLEST * ratio];
  const square = Math.min(across / nk, down / nq, LARGEST * ratio);
  const sight = (n: number, room: number): Sight => {
    const pitch = Math.max(square, Math.min(LARGEST * ratio, Math.min(room, SHORTEST * ratio) / n));
    return wholeOf(n, pitch >= 1 ? n * Math.floor(pitch) : Math.ceil(n / Math.ceil(1 / pitch)));
  };
  const [rows, cols] = [sight(nq, down), sight(nk, across)];
  return { rows, cols, left, right, top, width: cols.size / ratio, height: rows.size / ratio, gaps };
}

/** Where place `i` begins, from the edge of the cells. */
export const edgeOf = (sight: Sight, i: number): number => startOf(sight, i) / pixelRatio();

/** The same, but no further than the edges. */
export const within = (sight: Sight, i: number): number => Math.min(sight.size, Math.max(0, startOf(sight, i))) / pixelRatio();

/** How wide a place is. */
export const pitchOf = ({ pitch }: Sight): number => pitch / pixelRatio();

export function moveTo(el: HTMLElement, x: number, y: number): void {
  el.style.transform = `translate(${x}px, ${y}px)`;
}
