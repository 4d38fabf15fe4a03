/** The heat map without a browser: windows, labels, margins, sinks, and pictures of what is in sight. */

import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";

import { perPixel } from "../src/bars.ts";
import { difference } from "../src/combine.ts";
import type { Paint } from "../src/draw.ts";
import { cellText, storedBlock, strongestIn } from "../src/ink.ts";
import { entropyOf, margins, QUICK, receivedIn, without } from "../src/margins.ts";
import type { WeightMap } from "../src/math.ts";
import { isWeight, MASKED, overview, weightMap } from "../src/math.ts";
import { Pictures } from "../src/pictures.ts";
import type { Around } from "../src/plan.ts";
import { layOut } from "../src/plan.ts";
import type { Shown } from "../src/state.ts";
import type { Sight } from "../src/window.ts";
import { binAt, isWhole, moved, placeAt, revealing, roof, roundStep, seen, snapped, spanOf, startOf, ticks, toCompute, wholeOf, zoomed } from "../src/window.ts";
import { head, weights } from "./fixtures.ts";

const AROUND: Around = { query: 60, key: 60, lanes: [0, 0], bars: true, leaks: false };
const SIZES = [[1, 1], [4, 4], [13, 13], [40, 60], [333, 333], [512, 512], [4096, 4096], [12, 4096], [4096, 12], [1, 4096]] as const;

describe("the layout", () => {
  it.each(SIZES)("of %i × %i has cells of whole screen pixels and stays in its room", (nq, nk) => {
    for (const ratio of [1, 1.5, 2]) {
      for (const width of [320, 460, 700, 1100]) {
        const { rows, cols, left, right, width: wide, height } = layOut(nq, nk, width, AROUND, ratio);
        for (const sight of [rows, cols]) {
          expect(Number.isInteger(sight.size)).toBe(true);
          if (sight.pitch >= 1) expect(Number.isInteger(sight.pitch)).toBe(true);
          expect(isWhole(sight)).toBe(true);
        }
        expect(left + wide + right).toBeLessThanOrEqual(width + 1);
        expect(height).toBeLessThanOrEqual(620);
      }
    }
  });

  it("keeps cells square unless a side would get too thin to read", () => {
    for (const n of [5, 13, 100, 512]) {
      const { rows, cols } = layOut(n, n, 700, AROUND, 1);
      expect(rows.pitch).toBe(cols.pitch);
    }
    const { rows, cols } = layOut(40, 60, 700, AROUND, 1);
    expect(rows.pitch).toBe(cols.pitch);
    const thin = layOut(12, 4096, 700, AROUND, 1);
    expect(thin.rows.pitch).toBeGreaterThanOrEqual(13);
    expect(thin.cols.pitch).toBeLessThan(1);
  });
});

describe("a window", () => {
  const levels = (sight: Sight): Sight[] => [1 / 6, 1 / 3, 1 / 2, 1, 2, 3, 13, 44].map((pitch) => zoomed(sight, pitch, sight.size / 3));

  it("keeps what is under the pointer, to a pixel, unless an end is reached", () => {
    let sight = wholeOf(4096, 600);
    for (const pitch of [1 / 6, 1 / 3, 1 / 2, 1, 2, 5, 20, 44, 7, 1, 1 / 4]) {
      const before = placeAt(sight, 200);
      sight = zoomed(sight, pitch, 200);
      expect(Math.abs(placeAt(sight, 200) - before)).toBeLessThanOrEqual(1 / sight.pitch + 1e-6);
    }
    expect(zoomed(sight, 1 / 100, 200)).toEqual({ ...wholeOf(4096, 600) });
  });

  it("starts at a whole pixel and stays on the axis", () => {
    for (const sight of levels(wholeOf(4096, 683))) {
      for (const from of [-50, 0, 0.4, 17.3, 999.99, 4090, 1e9]) {
        const there = moved(sight, from);
        expect(there.from * there.pitch).toBeCloseTo(Math.round(there.from * there.pitch), 6);
        expect(there.from).toBeGreaterThanOrEqual(0);
        expect(there.from + spanOf(there)).toBeLessThanOrEqual(there.n + 1 / there.pitch + 1e-6);
      }
    }
  });

  it("shows the last place when it is asked for, and no more movement than needed", () => {
    for (const sight of levels(wholeOf(4096, 683))) {
      for (const i of [0, 1, 700, 4094, 4095]) {
        const there = revealing(sight, i);
        const [first, last] = seen(there);
        expect(i).toBeGreaterThanOrEqual(first);
        expect(i).toBeLessThan(last);
        expect(startOf(there, i)).toBeGreaterThanOrEqual(-1e-6);
        expect(startOf(there, i + 1)).toBeLessThanOrEqual(there.size + 1 + 1e-6);
        expect(revealing(there, i).from).toBe(there.from);
      }
    }
  });

  it("computes whole blocks that hold what is in sight, and all of what is whole", () => {
    expect(toCompute(wholeOf(4096, 683), 0.25)).toEqual([0, 4096, 683]);
    for (const sight of levels(wholeOf(4096, 683)).filter((one) => !isWhole(one))) {
      for (const margin of [0, 0.25]) {
        const [from, to, bins] = toCompute(sight, margin);
        const [first, last] = seen(sight);
        expect(from).toBeLessThanOrEqual(first);
        expect(to).toBeGreaterThanOrEqual(last);
        expect(bins * Math.max(1, Math.round(1 / sight.pitch))).toBeGreaterThanOrEqual(to - from);
        expect(from % Math.max(1, Math.round(1 / sight.pitch))).toBe(0);
      }
    }
  });

  it("has pixels that cells can share evenly", () => {
    expect([0.16, 0.34, 0.6, 0.9, 1.2, 1.6, 43.7].map(snapped)).toEqual([1 / 6, 1 / 3, 1 / 2, 1, 1, 2, 44]);
    expect([0, 9, 10, 99, 100].map((place) => binAt(place, 0, 100, 10))).toEqual([0, 0, 1, 9, 9]);
  });
});

describe("labels", () => {
  it("never overlap, whatever is in sight", () => {
    for (const n of [4, 40, 400, 4096]) {
      for (const pitch of [1 / 8, 1 / 2, 1, 3, 9, 15, 44]) {
        const sight = zoomed(wholeOf(n, Math.min(600, n * 44)), pitch, 300);
        const { step, places } = ticks(sight, 15, 30);
        expect(step * sight.pitch).toBeGreaterThanOrEqual(step === 1 ? 15 : 30);
        expect(places.every((i, at) => at === 0 || (i - places[at - 1]) * sight.pitch >= 15)).toBe(true);
        expect(places.every((i) => startOf(sight, i + 0.5) >= 0 && startOf(sight, i + 0.5) <= sight.size)).toBe(true);
        expect(places.every((i) => i % step === 0)).toBe(true);
      }
    }
  });

  it("stand at round places", () => {
    expect([1, 1.2, 3, 7, 11, 30, 210, 501].map(roundStep)).toEqual([1, 2, 5, 10, 20, 50, 500, 1000]);
    expect([0.004, 0.09, 0.2, 0.31, 0.7, 1].map((value) => Number(roof(value).toPrecision(3)))).toEqual([0.005, 0.1, 0.2, 0.5, 1, 1]);
  });

  it("in cells are as short as they can be", () => {
    expect([0, 0.001, 0.062, 0.5, 0.999, 1].map((weight) => cellText(weight, false))).toEqual(["0", "·", ".06", ".50", "1.0", "1.0"]);
    expect([0, 0.31, -0.31].map((weight) => cellText(weight, true))).toEqual(["0", "+.31", "−.31"]);
  });
});

describe("margins", () => {
  const sure = async (map: WeightMap) => margins(map, { budget: Infinity });

  it("are what the definitions say: mean over the queries that may see a key, entropy of a row divided by its sum", async () => {
    const { block, expected, nq, nk } = head({ nq: 9, sink: 0.3, keep: (j) => j !== 3 });
    const found = await sure(weightMap(block));
    for (let j = 0; j < nk; j++) {
      const column = expected.map((row) => row[j]).filter((p) => p !== null);
      const mean = column.reduce((sum, p) => sum + p, 0) / column.length;
      for (const received of [found.received[j], receivedIn(weightMap(block).column(j) ?? new Float32Array())]) {
        if (column.length === 0) expect(received).toBeNaN();
        else expect(received).toBeCloseTo(mean, 6);
      }
    }
    for (let i = 0; i < nq; i++) {
      const row = expected[i].filter((p) => p !== null);
      const mass = row.reduce((sum, p) => sum + p, 0);
      expect(found.entropy[i]).toBeCloseTo(row.reduce((sum, p) => sum - (p / mass) * Math.log(p / mass), 0), 5);
      expect(found.entropy[i]).toBeLessThanOrEqual(Math.log(row.length) + 1e-6);
    }
    expect(found.sampled).toBe(false);
  });

  it("have nothing for rows and columns without weights", async () => {
    expect(entropyOf(Float32Array.of(0, 0, MASKED))).toBeNaN();
    expect(entropyOf(Float32Array.of(1, 0))).toBe(0);
    expect(receivedIn(Float32Array.of(MASKED, NaN))).toBeNaN();
    const found = await sure(weightMap(weights([["padded", "padded"], [1, "masked"]])));
    expect([...found.received]).toEqual([1, NaN]);
    expect([...found.entropy]).toEqual([NaN, 0]);
  });

  it("of many rows are sampled, and say so; those of some rows count these only", async () => {
    const map = weightMap(head({ nq: 40, d: 4 }).block);
    const sampled = await margins(map, { budget: 16 * 40 * 4 });
    expect(sampled.sampled).toBe(true);
    expect([...sampled.entropy].filter((value) => !Number.isNaN(value))).toHaveLength(16);
    const some = await margins(map, { rows: 5, budget: QUICK });
    expect(some.sampled).toBe(false);
    expect(some.received[5]).toBeNaN();
    expect(some.received[0]).toBeCloseTo(receivedIn(map.column(0)?.slice(0, 5) ?? new Float32Array()), 6);
  });

  it("of differences have signs, and no entropy", async () => {
    const [a, b] = [1, 2].map((seed) => weightMap(head({ nq: 6, seed }).block));
    const source = (map: WeightMap) => ({ map, row: () => Promise.reject(new Error()), column: () => Promise.reject(new Error()) });
    const { map } = difference(source(a), source(b));
    const found = await sure(map);
    expect(found.received[2]).toBeCloseTo(receivedIn(a.column(2) ?? new Float32Array()) - receivedIn(b.column(2) ?? new Float32Array()), 5);
    expect(found.entropy.every(Number.isNaN)).toBe(true);
    expect(found.sinks).toEqual([]);
  });

  it("share pixels: the furthest from 0 of what keys receive, the mean of entropies", () => {
    const sight = { n: 6, size: 3, pitch: 0.5, from: 0 };
    expect(perPixel([0.1, -0.4, NaN, 0.2, NaN, NaN], sight, "furthest").map(({ value }) => value)).toEqual([-0.4, 0.2, NaN]);
    expect(perPixel([1, 2, NaN, 3, NaN, NaN], sight, "mean").map(({ value }) => value)).toEqual([1.5, 3, NaN]);
  });
});

describe("sinks", () => {
  /** A causal map whose rows give `share` to key `at`, once they can see it, and the rest to all alike. */
  const sinking = (n: number, at: number, share: number): WeightMap =>
    weightMap(weights(Array.from({ length: n }, (_, i) => Array.from({ length: n }, (__, j) => {
      if (j > i) return "masked" as const;
      return i < at ? 1 / (i + 1) : (j === at ? share : 0) + (1 - share) / (i + 1);
    }))));
  const sinksOf = async (map: WeightMap): Promise<number[]> => (await margins(map, { budget: Infinity })).sinks;

  it("are keys that take far more than their share, wherever they stand", async () => {
    expect(await sinksOf(sinking(40, 0, 0.7))).toEqual([0]);
    expect(await sinksOf(sinking(40, 12, 0.5))).toEqual([12]);
  });

  it("are not the first tokens of an even head, nor the last ones, nor a head of neighbours", async () => {
    expect(await sinksOf(sinking(40, 0, 0))).toEqual([]);
    expect(await sinksOf(sinking(6, 0, 0.2))).toEqual([]); // too short to tell
    expect(await sinksOf(sinking(40, 36, 0.9))).toEqual([]); // four have seen it
    const diagonal = Array.from({ length: 30 }, (_, i) => Array.from({ length: 30 }, (__, j) => (j > i ? "masked" as const : j === i ? 1 : 0)));
    expect(await sinksOf(weightMap(weights(diagonal)))).toEqual([]);
  });

  it("are left out of the colours and of nothing else", async () => {
    const map = sinking(40, 0, 0.7);
    const rest = without(map, [0]);
    expect(rest.tile(20, 21, 0, 3)[0]).toBe(MASKED);
    expect(rest.tile(20, 21, 1, 3)).toEqual(map.tile(20, 21, 1, 3));
    expect(Math.max(...(await overview(rest, 8, 8)).cells)).toBeLessThan(0.7);
    expect(map.tile(20, 21, 0, 1)[0]).toBeGreaterThan(0.7);
    expect(without(map, [])).toBe(map);
  });
});

it("the strongest of a block is the furthest from 0, and a code only where there is no weight", () => {
  const map = weightMap(weights([[0.1, 0.4, "masked"], [0.2, 0.3, "masked"]]));
  expect(strongestIn(map, { r0: 0, r1: 2, c0: 0, c1: 3 })).toEqual({ query: 0, key: 1 });
  expect(strongestIn(map, { r0: 0, r1: 2, c0: 2, c1: 3 })).toEqual({ query: 0, key: 2 });
  expect(storedBlock({ nq: 10, nk: 10, step: [4, 3] }, { r0: 5, r1: 6, c0: 8, c1: 10 })).toEqual({ r0: 4, r1: 8, c0: 6, c1: 10 });
});

describe("pictures", () => {
  beforeAll(() => vi.stubGlobal("document", { createElement: () => ({ getContext: () => null }) }));
  afterAll(() => vi.unstubAllGlobals());

  const n = 200;
  const map = weightMap(head({ nq: n, d: 4 }).block);
  const paint: Paint = { scale: "linear", lut: new Uint32Array(256), masked: 0, nan: 0, signed: false, most: 1 };
  const fitted = wholeOf(n, 50);
  const shownOf = (own: Partial<Shown>): Shown => ({
    map, axes: { queries: {}, keys: {} }, groups: { queries: null, keys: null }, overlaid: [], selection: { part: "", layer: 0, head: 0, reduce: "mean" },
    row: (i: number) => Promise.resolve(map.tile(i, i + 1, 0, n)), column: (j: number) => Promise.resolve(map.tile(0, n, j, j + 1)), ...own,
  }) as unknown as Shown;
  const settled = async (pictures: Pictures): Promise<void> => {
    for (let turn = 0; turn < 200 && !pictures.settled; turn++) await new Promise((resolve) => { setTimeout(resolve, 1); });
  };

  it("compute what is in sight and its surroundings, and never the whole map at once", async () => {
    let largest = 0;
    const counted = { ...bound(map), tile: (...[r0, r1, c0, c1, out]: Parameters<WeightMap["tile"]>) => { largest = Math.max(largest, (r1 - r0) * (c1 - c0)); return map.tile(r0, r1, c0, c1, out); } };
    const pictures = new Pictures(() => undefined);
    await pictures.show(shownOf({ map: counted }), counted, fitted, fitted, paint);
    const close = zoomed(fitted, 10, 25);
    expect(pictures.under(fitted, fitted, 30, 20)?.block).toEqual({ r0: 120, r1: 124, c0: 80, c1: 84 });
    pictures.sharpen(close, close);
    await settled(pictures);
    const under = pictures.under(close, close, 5, 5);
    const first = Math.floor(placeAt(close, 5));
    expect(under?.block).toEqual({ r0: first, r1: first + 1, c0: first, c1: first + 1 });
    expect(pictures.grain(close, close)).toEqual({ tall: 1, wide: 1, sampled: false });
    expect(largest).toBeLessThanOrEqual(16 * n);
  });

  it("go back to a whole map without computing it again", async () => {
    const pictures = new Pictures(() => undefined);
    const first = await pictures.show(shownOf({}), map, fitted, fitted, paint);
    const other = weightMap(head({ nq: n, d: 4, seed: 3 }).block);
    await pictures.show(shownOf({ map: other }), other, fitted, fitted, paint);
    expect(await pictures.show(shownOf({}), map, fitted, fitted, paint)).toBe(first);
  });

  const pooled = { ...bound(map), pooled: true, step: [4, 4] as const, row: () => null, column: () => null };
  const close = zoomed(fitted, 5, 25);

  it("fetch the rows in sight of a pooled map, each once, and read exact weights from them", async () => {
    const asked: number[] = [];
    const pictures = new Pictures(() => undefined);
    const at = shownOf({ map: pooled, row: (i) => { asked.push(i); return Promise.resolve(map.tile(i, i + 1, 0, n)); } });
    await pictures.show(at, pooled, fitted, fitted, paint);
    expect(pictures.exactly({ r0: 0, r1: 1, c0: 0, c1: 1 })).toBeNull();
    pictures.sharpen(close, close);
    await settled(pictures);
    const [first, last] = seen(close);
    expect(asked).toEqual(Array.from({ length: last - first }, (_, k) => first + k));
    const read = pictures.exactly({ r0: first, r1: last, c0: first, c1: first + 2 });
    expect(read?.tile(first, last, first, first + 2)).toEqual(map.tile(first, last, first, first + 2));
    pictures.sharpen(moved(close, close.from + 2), close);
    await settled(pictures);
    expect(asked).toHaveLength(last - first + 2);
  });

  it("say why the rows of a pooled map cannot be had, and do not ask again and again", async () => {
    let asked = 0;
    const pictures = new Pictures(() => undefined);
    const at = shownOf({ map: pooled, row: () => { asked++; return Promise.reject(new Error("not stored in this page")); } });
    await pictures.show(at, pooled, fitted, fitted, paint);
    pictures.sharpen(close, close);
    await settled(pictures);
    expect(pictures.trouble).toBe("not stored in this page");
    const before = asked;
    pictures.sharpen(close, close);
    expect(pictures.settled).toBe(true);
    expect(asked).toBe(before);
    expect(isWeight(pooled.tile(10, 11, 0, 1)[0])).toBe(true);
  });
});

/** A map as an object of its own, whose parts can be replaced. */
function bound(map: WeightMap): WeightMap {
  const { nq, nk, signed, pooled, step, sampled, vmax, depth, maxError } = map;
  return {
    nq, nk, signed, pooled, step, sampled, vmax, depth, maxError,
    row: (i) => map.row(i), column: (j) => map.column(j), tile: (...of) => map.tile(...of), allowed: (i) => map.allowed(i), leak: (i) => map.leak(i),
  };
}
