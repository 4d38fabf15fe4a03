/** The maps of the few heads that are large enough to be read: asked for when they come into sight, given up when they leave it. */

import type { Paint } from "./draw.ts";
import { CellImage } from "./draw.ts";
import type { Cell } from "./grid.ts";
import type { Overview, WeightMap } from "./math.ts";
import { binStart, overview } from "./math.ts";
import { wordsOf } from "./wire.ts";

interface Closeup {
  stop: AbortController;
  map: WeightMap | null;
  pooled: Overview | null;
  image: CellImage | null;
  failed: string | null;
}

const AT_ONCE = 2; // maps that are read at the same time
const REMEMBERED = 48;
const REST = 90; // milliseconds that what is in sight stays there before its maps are asked for

export class Closeups {
  readonly #read: (cell: Cell, signal: AbortSignal) => Promise<WeightMap>;
  readonly #changed: () => void;
  readonly #known = new Map<string, Closeup>();
  #wanted: readonly Cell[] = [];
  #size = 0;
  #resting: ReturnType<typeof setTimeout> | undefined;
  #paint: ((map: WeightMap) => Paint) | null = null;

  constructor(read: (cell: Cell, signal: AbortSignal) => Promise<WeightMap>, changed: () => void) {
    this.#read = read;
    this.#changed = changed;
  }

  /** Those and no others are in sight, `size` of the screen's pixels each. */
  want(cells: readonly Cell[], size: number): void {
    if (size !== this.#size) this.forget();
    this.#size = size;
    this.#wanted = cells;
    const keys = new Set(cells.map(keyOf));
    for (const [key, closeup] of this.#known) {
      if (keys.has(key) || (!isBusy(closeup) && this.#known.size <= REMEMBERED)) continue;
      closeup.stop.abort();
      this.#known.delete(key);
    }
    clearTimeout(this.#resting);
    if (cells.length > 0) this.#resting = setTimeout(() => { this.#next(); }, REST);
  }

  /** Other maps from now on. */
  forget(): void {
    for (const { stop } of this.#known.values()) stop.abort();
    this.#known.clear();
    this.#wanted = [];
    clearTimeout(this.#resting);
  }

  /** Other colours. */
  dress(paint: (map: WeightMap) => Paint): void {
    this.#paint = paint;
    for (const closeup of this.#known.values()) this.#colour(closeup);
  }

  pictureOf(cell: Cell): HTMLCanvasElement | null {
    return this.#known.get(keyOf(cell))?.image?.canvas ?? null;
  }

  /** Why there is no map of a cell, if there is none. */
  failure(cell: Cell): string | null {
    return this.#known.get(keyOf(cell))?.failed ?? null;
  }

  /** How many of those in sight are not to be had. */
  failures(): number {
    return this.#wanted.filter((cell) => this.failure(cell) !== null).length;
  }

  #next(): void {
    const busy = [...this.#known.values()].filter(isBusy).length;
    const waiting = this.#wanted.filter((cell) => !this.#known.has(keyOf(cell)));
    for (const cell of waiting.slice(0, Math.max(0, AT_ONCE - busy))) void this.#load(cell);
  }

  async #load(cell: Cell): Promise<void> {
    const closeup: Closeup = { stop: new AbortController(), map: null, pooled: null, image: null, failed: null };
    const { signal } = closeup.stop;
    this.#known.set(keyOf(cell), closeup);
    try {
      closeup.map = await this.#read(cell, signal);
      closeup.pooled = await overview(closeup.map, this.#size, this.#size, { signal });
      this.#colour(closeup);
    } catch (error) {
      closeup.failed = wordsOf(error);
    }
    if (signal.aborted) return;
    this.#changed();
    this.#next();
  }

  #colour(closeup: Closeup): void {
    const { map, pooled } = closeup;
    if (map === null || pooled === null || this.#paint === null) return;
    closeup.image ??= new CellImage(pooled.rows, pooled.cols);
    closeup.image.paint(pooled.cells, 0, pooled.rows, this.#paint(map), (row) => map.allowed(binStart(row, map.nq, pooled.rows)));
  }
}

const isBusy = ({ pooled, failed }: Closeup): boolean => pooled === null && failed === null;

const keyOf = ({ layer, head }: Cell): string => `${layer ?? "*"}/${head ?? "*"}`;
