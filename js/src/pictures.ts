/**
 * Pictures of a map, like the tiles of a street map: all of it coarsely, and what is in sight sharply. Each is computed in
 * turns and drawn while it grows; until a sharp one is there, what is known is stretched. The whole map is never drawn larger
 * than the screen.
 */

import { mapOf } from "./combine.ts";
import type { Paint } from "./draw.ts";
import { CellImage, cross, hatch } from "./draw.ts";
import type { Overview, Region, WeightMap } from "./math.ts";
import { binStart, overview } from "./math.ts";
import { edgeOf } from "./plan.ts";
import type { Shown } from "./state.ts";
import type { Palette } from "./theme.ts";
import { css } from "./theme.ts";
import type { Sight } from "./window.ts";
import { binAt, blockOf, covers, isWhole, placeAt, seen, toCompute } from "./window.ts";
import { wordsOf } from "./wire.ts";

interface Picture {
  /** What it is a picture of: the map, or exact rows of it. */
  map: WeightMap;
  cells: Overview;
  image: CellImage;
  /** Rows [0, painted) of the image are up to date. */
  painted: number;
  /** Pixels per place, down and across. */
  level: string;
}

/** What is drawn at a point: a block of weights, and where to read them. */
export interface Under {
  block: Region;
  map: WeightMap;
}

const REMEMBERED = 12; // pictures of whole maps: going back to one costs nothing
const FETCHED = 64; // rows in sight, at most, that are asked for one by one
const KEPT = 256; // rows
const MARGIN_WORK = 4e7; // multiply-adds for what is in sight, below which its surroundings are computed too

export class Pictures {
  #paint: Paint | null = null;
  #stack: Picture[] = []; // all of the map first, what is sharper over it
  #making = new AbortController();
  #sharpening: { level: string; stop: AbortController } | null = null;
  #failed = ""; // what could not be made sharp
  #fetched = new Map<number, Float32Array>();
  #remembered: { map: WeightMap; cells: Overview }[] = []; // last used first
  #of: Shown | null = null;
  /** Why exact rows cannot be shown. */
  trouble = "";

  /** `changed` is called when there is more to draw. */
  constructor(private readonly changed: () => void) {}

  /** All of the map, as far as it is done, and its picture. */
  get whole(): { readonly cells: Overview; readonly image: CellImage } | null {
    return this.#stack.at(0) ?? null;
  }

  /** Whether what is in sight is as sharp as it gets. */
  get settled(): boolean {
    return this.#sharpening === null;
  }

  /** Makes the picture of all of `map`, rows × cols cells; the pictures before it stay until it has something to show. Rejects when it is overtaken. */
  async show(of: Shown, map: WeightMap, rows: Sight, cols: Sight, paint: Paint): Promise<Overview> {
    this.stop();
    const { signal } = (this.#making = new AbortController());
    const [r, c] = [toCompute(rows, 0)[2], toCompute(cols, 0)[2]];
    const onBand = (cells: Overview): void => {
      if (this.whole?.cells !== cells) {
        this.#paint = paint;
        this.#stack = [{ map, cells, image: new CellImage(r, c), painted: 0, level: "" }];
        this.#failed = this.trouble = "";
        if (this.#of !== of) this.#fetched.clear();
        this.#of = of;
      }
      this.changed();
    };
    const known = this.#remembered.find((one) => one.map === map && one.cells.rows === r && one.cells.cols === c);
    const cells = known?.cells ?? (await overview(map, r, c, { signal, onBand }));
    if (known !== undefined) onBand(cells);
    this.#remembered = [{ map, cells }, ...this.#remembered.filter((one) => one !== known)].slice(0, REMEMBERED);
    return cells;
  }

  stop(): void {
    this.#making.abort();
    this.#sharpening?.stop.abort();
    this.#sharpening = null;
  }

  repaint(paint: Paint): void {
    this.#paint = paint;
    for (const picture of this.#stack) picture.painted = 0;
    this.changed();
  }

  /** Makes what is in sight sharp, unless it is, or is about to be. */
  sharpen(rows: Sight, cols: Sight): void {
    const whole = this.#stack.at(0);
    if (whole === undefined || whole.cells.done < whole.cells.rows) return; // it calls `changed` when it is done
    const level = `${rows.pitch} ${cols.pitch}`;
    const [[r0, r1], [c0, c1]] = [seen(rows), seen(cols)];
    const region = { r0, r1, c0, c1 };
    const wanted = `${level} ${Object.values(region).join(" ")}`;
    const top = this.#stack[this.#stack.length - 1];
    const all = isWhole(rows) && isWhole(cols);
    if (all) this.#stack.length = 1;
    else if (this.#sharpening?.level === level || this.#failed === wanted || (top.level === level && covers(top.cells.region, region))) return;
    this.#sharpening?.stop.abort();
    this.#sharpening = null;
    if (all) return;
    const stop = new AbortController();
    const own = (this.#sharpening = { level, stop });
    this.#make(whole.map, region, rows, cols, level, stop.signal).catch((error: unknown) => {
      if (stop.signal.aborted) return;
      this.trouble = wordsOf(error);
      this.#failed = wanted;
    }).finally(() => {
      if (this.#sharpening !== own) return;
      this.#sharpening = null;
      this.changed();
    });
  }

  async #make(map: WeightMap, seen: Region, rows: Sight, cols: Sight, level: string, signal: AbortSignal): Promise<void> {
    const exact = map.pooled && seen.r1 - seen.r0 <= FETCHED;
    const from = exact ? await this.#exactly(map, seen, signal) : map;
    const margin = !exact && (seen.r1 - seen.r0) * (seen.c1 - seen.c0) * map.depth < MARGIN_WORK ? 0.25 : 0;
    const [[r0, r1, r], [c0, c1, c]] = [toCompute(rows, margin), toCompute(cols, margin)];
    const region = exact ? { ...seen, c0, c1 } : { r0, r1, c0, c1 };
    await overview(from, exact ? seen.r1 - seen.r0 : r, c, {
      region, signal,
      onBand: (cells) => {
        const top = this.#stack[this.#stack.length - 1];
        // The one before stays under it until it is done.
        if (top.cells !== cells) this.#stack = [this.#stack[0], ...this.#stack.slice(1).slice(-1), { map: from, cells, image: new CellImage(cells.rows, cells.cols), painted: 0, level }];
        this.changed();
      },
    });
    if (this.#stack.length > 2) this.#stack.splice(1, 1);
    this.trouble = "";
  }

  /** The rows in sight of a pooled map, each asked for once; nothing else may be read from it. */
  async #exactly(map: WeightMap, { r0, r1 }: Region, signal: AbortSignal): Promise<WeightMap> {
    const of = this.#of;
    if (of === null) return map;
    if (this.#fetched.size > KEPT) this.#fetched.clear();
    const rows = await Promise.all(Array.from({ length: r1 - r0 }, async (_, n) => {
      const row = this.#fetched.get(r0 + n) ?? (await of.row(r0 + n, signal));
      this.#fetched.set(r0 + n, row);
      return row;
    }));
    return mapOf(map, (from, to, c0, c1, out) => {
      for (let i = from; i < to; i++) out.set(rows[i - r0].subarray(c0, c1), (i - from) * (c1 - c0));
    }, { pooled: false, step: [1, 1], sampled: false });
  }

  // ── reading ──

  /** What is drawn `y` pixels down and `x` across: by the topmost picture that has something there. */
  under(rows: Sight, cols: Sight, y: number, x: number): Under | null {
    const [i, j] = [placeAt(rows, y), placeAt(cols, x)];
    for (const { map, cells: { region: { r0, r1, c0, c1 }, rows: down, cols: across, done } } of [...this.#stack].reverse()) {
      if (i < r0 || i >= r0 + binStart(done, r1 - r0, down) || j < c0 || j >= c1) continue;
      const [b, c] = [binAt(i, r0, r1, down), binAt(j, c0, c1, across)];
      const block = { r0: r0 + binStart(b, r1 - r0, down), r1: r0 + binStart(b + 1, r1 - r0, down), c0: c0 + binStart(c, c1 - c0, across), c1: c0 + binStart(c + 1, c1 - c0, across) };
      return { block, map };
    }
    return null;
  }

  /** The map to read single weights of a region from; `null` where only pooled ones are known. */
  exactly(region: Region): WeightMap | null {
    return this.#stack.find(({ map, cells }) => !map.pooled && covers(cells.region, region))?.map ?? null;
  }

  /** How many weights a dot of the sharpest picture in sight stands for, and whether only some of them were looked at. */
  grain(rows: Sight, cols: Sight): { tall: number; wide: number; sampled: boolean } {
    const top = this.#stack.at(-1);
    const [tall, wide] = top?.map.step ?? [1, 1];
    return { tall: Math.max(tall, blockOf(rows)), wide: Math.max(wide, blockOf(cols)), sampled: top?.cells.sampled === true };
  }

  // ── drawing ──

  /** Draws what there is, sharper pictures over coarser ones. `pen` is in CSS pixels. */
  draw(pen: CanvasRenderingContext2D, rows: Sight, cols: Sight, { soft, ground, accent }: Palette): void {
    pen.imageSmoothingEnabled = false;
    const hatching = hatch(pen, css(soft, 0.45));
    for (const picture of this.#stack) {
      const { cells: { cells, region: { r0, r1, c0, c1 }, rows: down, cols: across, done }, image, map, painted } = picture;
      if (this.#paint !== null && painted < done) {
        image.paint(cells, painted, done, this.#paint, (row) => map.allowed(r0 + binStart(row, r1 - r0, down)));
        picture.painted = done;
      }
      // Of a picture that is stretched far, only what is in sight is drawn.
      const [top, bottom] = [binAt(rows.from, r0, r1, down), Math.min(done, binAt(placeAt(rows, rows.size), r0, r1, down) + 1)];
      const [left, right] = [binAt(cols.from, c0, c1, across), binAt(placeAt(cols, cols.size), c0, c1, across) + 1];
      if (bottom <= top) continue;
      const y = (bin: number): number => edgeOf(rows, r0 + (bin * (r1 - r0)) / down);
      const x = (bin: number): number => edgeOf(cols, c0 + (bin * (c1 - c0)) / across);
      const box = [x(left), y(top), x(right) - x(left), y(bottom) - y(top)] as const;
      for (const colour of [css(ground), hatching]) {
        pen.fillStyle = colour;
        pen.fillRect(...box);
      }
      pen.drawImage(image.canvas, left, top, right - left, bottom - top, ...box);
      const size = Math.min(y(1) - y(0), x(1) - x(0));
      if (size < 5) continue;
      pen.beginPath();
      pen.fillStyle = css(ground);
      for (let b = top; b < bottom; b++) {
        for (let c = left; c < right; c++) {
          if (!Number.isNaN(cells[b * across + c])) continue;
          pen.fillRect(x(c), y(b), x(c + 1) - x(c), y(b + 1) - y(b));
          cross(pen, (x(c) + x(c + 1)) / 2, (y(b) + y(b + 1)) / 2, size);
        }
      }
      pen.strokeStyle = css(accent);
      pen.lineWidth = Math.min(2, size / 6);
      pen.stroke();
    }
  }
}
