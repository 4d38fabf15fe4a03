import { describe, expect, it } from "vitest";

import type { WeightMap } from "../src/math.ts";
import { binStart, cellsOf, MASKED, overview, PADDED, strongest, summary, weightMap } from "../src/math.ts";
import type { Head } from "./fixtures.ts";
import { block, f32, f32s, gaussian, head, i16, i32, u8, weights } from "./fixtures.ts";

/** Every cell of every row, column and tile is the naive weight, or a code below 0 where there is none. */
function expectMap({ block: packed, expected, nq, nk }: Head, tolerance = 1e-6): WeightMap {
  const map = weightMap(packed);
  const check = (cell: number, i: number, j: number): void => {
    const wanted = expected[i][j];
    if (wanted === null) expect(cell, `${i}, ${j}`).toBeLessThan(0);
    else expect(Math.abs(cell - wanted), `${i}, ${j}: ${cell} and ${wanted}`).toBeLessThan(tolerance);
  };
  for (let i = 0; i < nq; i++) map.row(i)?.forEach((cell, j) => check(cell, i, j));
  for (let j = 0; j < nk; j++) map.column(j)?.forEach((cell, i) => check(cell, i, j));
  const [r0, r1, c0, c1] = [Math.min(1, nq), nq, Math.min(2, nk), Math.max(Math.min(2, nk), nk - 1)];
  map.tile(r0, r1, c0, c1).forEach((cell, at) => check(cell, r0 + Math.floor(at / (c1 - c0)), c0 + (at % (c1 - c0))));
  return map;
}

describe("a map computed from Q and K", () => {
  it.each([
    ["causal", {}],
    ["with a width that is no multiple of 4", { nq: 9, d: 7 }],
    ["with a width below 4", { nq: 6, d: 3 }],
    ["of one query and one key", { nq: 1 }],
    ["bidirectional", { stop: () => 7 }],
    ["in a sliding window", { nq: 12, start: (i: number) => Math.max(0, i - 3) }],
    ["of queries after cached keys", { nq: 3, nk: 10, stop: (i: number) => i + 8 }],
    ["across two sequences", { nq: 4, nk: 11, stop: () => 11 }],
    ["under a mask of bits", { nq: 11, stop: () => 11, bits: (i: number, j: number) => (i * 7 + j * 3) % 4 !== 1 }],
    ["under bits and padding at once", { nq: 11, stop: () => 11, bits: (i: number, j: number) => (i + j) % 2 === 0, keep: (j: number) => j > 3 }],
    ["with padding on the left", { nq: 8, keep: (j: number) => j >= 2 }],
    ["with a bias by distance", { nq: 9, bias: (distance: number) => 0.5 * distance }],
    ["with a bias between sequences of two lengths", { nq: 4, nk: 9, stop: () => 9, bias: (distance: number) => Math.sin(distance) }],
    ["with a cap on the logits", { scale: 3, softcap: 2 }],
    ["with cap and bias, in this order", { scale: 3, softcap: 2, bias: (distance: number) => -0.7 * Math.abs(distance) }],
    ["with one sink", { sink: 0.5 }],
    ["with a sink for each query", { sink: [0, 1, 2, 3, -1, -2, 0.5] }],
    ["with more keys than are worked on at a time", { nq: 5, nk: 4100, d: 6, stop: (i: number) => 4100 - i }],
  ])("%s agrees with double loops over the definition", (_, options) => {
    expectMap(head(options));
  });

  it("has rows that sum to one", () => {
    const map = weightMap(head({ nq: 40, d: 16 }).block);
    for (let i = 0; i < 40; i++) expect(map.row(i)?.reduce((sum, p) => sum + Math.max(0, p), 0)).toBeCloseTo(1, 5);
  });

  it("is uniform where all keys are alike", () => {
    const n = 6;
    const packed = head({ nq: n, stop: () => n });
    packed.block.arrays.set("q", f32([n, 5], new Array<number>(n * 5).fill(0)));
    packed.block.arrays.set("lse", f32s(new Array<number>(n).fill(Math.log(n))));
    for (const p of weightMap(packed.block).row(3) ?? []) expect(p).toBeCloseTo(1 / n, 6);
  });

  it("tells masked from padded cells, and marks the row of a query without keys as padded", () => {
    const map = weightMap(head({ nq: 5, keep: (j) => j !== 0 }).block);
    expect([...(map.row(0) ?? [])]).toEqual([PADDED, PADDED, PADDED, PADDED, PADDED]);
    const row = map.row(2) ?? [];
    expect([row[0], row[3], row[4]]).toEqual([PADDED, MASKED, MASKED]);
    expect([...(map.column(0) ?? [])]).toEqual(new Array(5).fill(PADDED));
    const empty = weightMap(head({ nq: 3, start: () => 1, stop: () => 1 }).block);
    expect([...empty.tile(0, 3, 0, 3)]).toEqual(new Array(9).fill(PADDED));
  });

  it("counts the keys each query may see", () => {
    expect([0, 1, 2, 3].map((i) => weightMap(head({ nq: 4 }).block).allowed(i))).toEqual([1, 2, 3, 4]);
    expect([0, 1, 2, 3].map((i) => weightMap(head({ nq: 4, keep: (j) => j !== 1 }).block).allowed(i))).toEqual([1, 1, 2, 3]);
    const bits = weightMap(head({ nq: 4, stop: () => 4, bits: (i, j) => i !== 2 && j % 2 === 0, keep: (j) => j !== 0 }).block);
    expect([0, 1, 2, 3].map((i) => bits.allowed(i))).toEqual([1, 1, 0, 1]);
  });

  it.each([0.5, [0, 1, 2, 3, -1, -2, 0.5]])("leaks to a sink what its rows do not give to keys (sink %s)", (sink) => {
    const map = weightMap(head({ sink }).block);
    for (let i = 0; i < 7; i++) {
      const sum = map.row(i)?.reduce((total, p) => total + Math.max(0, p), 0) ?? NaN;
      expect(sum).toBeLessThan(1);
      expect(map.leak(i)).toBeCloseTo(1 - sum, 5);
    }
  });

  it("leaks nothing where there is no sink, or no key", () => {
    expect(weightMap(head({}).block).leak(3)).toBe(0);
    expect(weightMap(head({ sink: 1, nq: 3, keep: (j) => j > 0 }).block).leak(0)).toBe(0);
  });

  it("shows NaN where the model made NaN, and leaves the rest as it is", () => {
    const packed = head({ nq: 5, stop: () => 5 });
    (packed.block.arrays.get("k")?.data as Float32Array)[2 * 5] = NaN;
    const map = weightMap(packed.block);
    expect(map.row(1)?.[2]).toBeNaN();
    expect(map.row(1)?.[1]).toBeCloseTo(packed.expected[1][1] ?? NaN, 6);
    (packed.block.arrays.get("lse")?.data as Float32Array)[3] = NaN;
    expect(weightMap(packed.block).row(3)?.every(Number.isNaN)).toBe(true);
  });

  it("shows NaN for what cannot be a weight", () => {
    const packed = head({ nq: 2 });
    (packed.block.arrays.get("lse")?.data as Float32Array)[0] -= 3;
    expect(weightMap(packed.block).row(0)?.[0]).toBeNaN();
    expect(weightMap(packed.block).row(1)?.[0]).toBeGreaterThan(0);
  });

  it("in 16 bits stays within the precision that is promised", () => {
    const [n, d] = [64, 16];
    const whole = head({ nq: n, d, seed: 9 });
    const compact = new Map(whole.block.arrays);
    for (const name of ["q", "k"]) {
      const values = whole.block.arrays.get(name)?.data ?? [];
      const rows = Array.from({ length: n }, (_, i) => Array.from({ length: d }, (__, x) => values[i * d + x]));
      const steps = rows.map((row) => Math.max(...row.map(Math.abs)) / 32767);
      compact.set(name, i16([n, d], rows.flatMap((row, i) => row.map((value) => Math.round(value / steps[i])))));
      compact.set(`${name}_step`, f32s(steps));
    }
    const map = expectMap({ ...whole, block: { ...whole.block, arrays: compact } }, 1e-3);
    expect(map.maxError).toBe(0);
  });

  it("writes into the array it is given, and only there", () => {
    const map = weightMap(head({ nq: 4 }).block);
    const out = new Float32Array(20).fill(9);
    expect(map.tile(1, 3, 0, 4, out)).toBe(out);
    expect([...out.slice(8)]).toEqual(new Array(12).fill(9));
    expect([...out.slice(0, 8)]).toEqual([...map.tile(1, 3, 0, 4)]);
    expect(map.tile(0, 4, 0, 4, new Float32Array(3))).toHaveLength(16);
  });

  it("refuses cells that it does not have", () => {
    const map = weightMap(head({ nq: 4 }).block);
    for (const [r0, r1, c0, c1] of [[0, 5, 0, 4], [0, 4, 0, 5], [-1, 1, 0, 1], [2, 1, 0, 1], [0.5, 1, 0, 1]]) {
      expect(() => map.tile(r0, r1, c0, c1)).toThrow("not within a map of 4 × 4");
    }
  });

  it("of no queries or no keys is empty", () => {
    expect(weightMap(head({ nq: 0, nk: 3 }).block).tile(0, 0, 0, 3)).toHaveLength(0);
    expect(weightMap(head({ nq: 2, nk: 0 }).block).row(1)).toHaveLength(0);
  });

  it.each([
    ["a missing array", (map: Head) => map.block.arrays.delete("lse"), "“lse” is missing"],
    ["missing steps", (map: Head) => map.block.arrays.set("q", i16([7, 5], new Array<number>(35).fill(1))), "“q_step” is missing"],
    ["an array of another shape", (map: Head) => map.block.arrays.set("keep", u8([3], [1, 1, 1])), "“keep” is u8 [3], expected u8 [7]"],
    ["a mask that leaves the keys", (map: Head) => map.block.arrays.set("stop", i32([7], new Array<number>(7).fill(8))), "query 0 may see keys 0 to 8 of 7"],
    ["a mask that runs backwards", (map: Head) => map.block.arrays.set("start", i32([7], [0, 0, 5, 0, 0, 0, 0])), "query 2 may see keys 5 to 3"],
    ["two sinks for seven queries", (map: Head) => map.block.arrays.set("sink", f32s([1, 2])), "2 sinks for 7 queries"],
    ["a short bias", (map: Head) => map.block.arrays.set("bias", f32s([1, 2])), "“bias” is f32 [2]"],
    ["no scale", (map: Head) => delete map.block.meta["scale"], "scale is not a number"],
    ["half a length", (map: Head) => (map.block.meta["n_q"] = 3.5), "n_q is not a whole number"],
  ])("is refused with %s", (_, damage, words) => {
    const damaged = head();
    damage(damaged);
    expect(() => weightMap(damaged.block)).toThrow(words);
  });

  it("is refused when the data are of another kind", () => {
    expect(() => weightMap(block("thumbs", {}, {}))).toThrow("kind “thumbs” hold no attention map");
  });
});

describe("a map of stored weights", () => {
  const rows = [
    [1, "masked", "masked"],
    [0.25, 0.75, "masked"],
    [NaN, 0, 0.5],
    ["padded", "padded", "padded"],
  ] as (number | "masked" | "padded")[][];

  it("gives rows, columns and tiles with their codes", () => {
    const map = weightMap(weights(rows));
    expect([...(map.row(0) ?? [])]).toEqual([1, MASKED, MASKED]);
    expect([...(map.row(2) ?? [])]).toEqual([NaN, 0, expect.closeTo(0.5, 4)]);
    expect([...(map.column(0) ?? [])]).toEqual([1, expect.closeTo(0.25, 4), NaN, PADDED]);
    expect([...map.tile(1, 3, 1, 3)]).toEqual([expect.closeTo(0.75, 4), MASKED, 0, expect.closeTo(0.5, 4)]);
    expect([map.pooled, map.vmax, map.depth, map.nq, map.nk]).toEqual([false, 1, 1, 4, 3]);
  });

  it("is precise to 2/65000 of its largest weight", () => {
    const next = gaussian(3);
    const row = Array.from({ length: 500 }, () => Math.min(1, Math.abs(next()) / 4));
    weightMap(weights([row])).row(0)?.forEach((p, j) => expect(Math.abs(p - row[j])).toBeLessThan(2 / 65000));
  });

  it("counts NaN among the keys that may be seen, masked and padded cells not", () => {
    const map = weightMap(weights(rows));
    expect([0, 1, 2, 3].map((i) => map.allowed(i))).toEqual([1, 2, 3, 0]);
  });

  it("in exact numbers keeps every bit, and the four signs", () => {
    const { meta } = weights([[0, 0, 0, 0]]);
    const exact = block("weights", { ...meta, vmax: 2 }, { exact: f32([1, 4], [1.9876543, NaN, NaN, NaN]), code: u8([1, 4], [0, 253, 254, 255]) });
    expect([...(weightMap(exact).row(0) ?? [])]).toEqual([Math.fround(1.9876543), NaN, PADDED, MASKED]);
    expect([...cellsOf(exact)]).toEqual([Math.fround(1.9876543), NaN, PADDED, MASKED]);
  });

  it("leaks what the block says, and else nothing", () => {
    const leaky = weights(rows);
    leaky.arrays.set("leak", f32s([0.5, -1e-8, NaN, 0]));
    expect([0, 1, 2, 3].map((i) => weightMap(leaky).leak(i))).toEqual([0.5, 0, 0, 0]);
    expect(weightMap(weights(rows)).leak(0)).toBe(0);
  });

  it("stored pooled repeats its cells and has no exact rows", () => {
    const map = weightMap(weights([[0.25, "masked"], [1, 0.25]], { rows: [0, 5], cols: [0, 4], step: [3, 2], n_q: 5, n_k: 4 }));
    expect([map.pooled, map.step, map.row(0), map.column(0)]).toEqual([true, [3, 2], null, null]);
    const quarter = expect.closeTo(0.25, 4) as number;
    expect([...map.tile(2, 5, 1, 4)]).toEqual([quarter, MASKED, MASKED, 1, quarter, quarter, 1, quarter, quarter]);
    expect([0, 2, 3, 4].map((i) => map.allowed(i))).toEqual([2, 2, 4, 4]);
  });

  it("may be a row or a column, which is no whole map", () => {
    const row = weights([[0.25, 1]], { rows: [3, 4], cols: [0, 2], n_q: 9, n_k: 2 });
    expect([...cellsOf(row)]).toEqual([expect.closeTo(0.25, 4), 1]);
    expect(() => weightMap(row)).toThrow("rows 3 to 4 and columns 0 to 2 of a map of 9 × 2, not the whole map");
  });

  it("is refused when its cells are not as many as it says", () => {
    expect(() => weightMap(weights([[1]], { rows: [0, 2], n_q: 2 }))).toThrow("1 × 1 cells in steps of 1 × 1 are not a map of 2 × 1");
    expect(() => weightMap(weights([[1]], { step: [0, 1] }))).toThrow("steps of 0 × 1");
    expect(() => weightMap(weights([[1]], { step: 1 }))).toThrow("step is not a pair");
    const lopsided = weights([[1, 0]]);
    lopsided.arrays.set("lo", u8([2, 1], [0, 0]));
    expect(() => weightMap(lopsided)).toThrow("“lo” is u8 [2, 1]");
  });
});

describe("the overview of a map", () => {
  /** Max pooling by the definition. */
  const pooledCell = (cells: number[]): number =>
    cells.some(Number.isNaN) ? NaN : cells.some((c) => c >= 0) ? Math.max(...cells) : cells.every((c) => c === PADDED) ? PADDED : MASKED;

  it.each([
    [3, 4],
    [13, 11],
    [100, 100],
    [1, 1],
  ])("at %i × %i is the pooled map, cell by cell", async (rows, cols) => {
    const packed = head({ nq: 13, nk: 11, stop: (i) => Math.min(11, i + 1), keep: (j) => j !== 5, d: 8 });
    (packed.block.arrays.get("q")?.data as Float32Array)[9 * 8] = NaN;
    const map = weightMap(packed.block);
    const pooled = await overview(map, rows, cols);
    expect([pooled.rows, pooled.cols, pooled.done, pooled.sampled]).toEqual([Math.min(13, rows), Math.min(11, cols), Math.min(13, rows), false]);
    for (let r = 0; r < pooled.rows; r++) {
      for (let c = 0; c < pooled.cols; c++) {
        const cells = [...map.tile(binStart(r, 13, pooled.rows), binStart(r + 1, 13, pooled.rows), binStart(c, 11, pooled.cols), binStart(c + 1, 11, pooled.cols))];
        expect(pooled.cells[r * pooled.cols + c]).toBe(pooledCell(cells));
      }
    }
  });

  it("may be of a region, at full resolution", async () => {
    const map = weightMap(head({ nq: 20, d: 8 }).block);
    const region = { r0: 5, r1: 15, c0: 2, c1: 9 };
    const pooled = await overview(map, 100, 100, { region });
    expect([...pooled.cells]).toEqual([...map.tile(5, 15, 2, 9)]);
    await expect(overview(map, 9, 9, { region: { ...region, r1: 21 } })).rejects.toThrow("not within a map");
  });

  it("of nothing is empty", async () => {
    const map = weightMap(head({ nq: 4 }).block);
    expect((await overview(map, 9, 9, { region: { r0: 2, r1: 2, c0: 0, c1: 0 } })).cells).toHaveLength(0);
  });

  it("of a pooled map is its cells", async () => {
    const map = weightMap(weights([[0.25, "masked"], [1, "padded"]], { rows: [0, 6], cols: [0, 4], step: [3, 2], sampled: true, n_q: 6, n_k: 4 }));
    const pooled = await overview(map, 2, 2);
    expect([...pooled.cells]).toEqual([expect.closeTo(0.25, 4), MASKED, 1, PADDED]);
    expect(pooled.sampled).toBe(true);
  });

  it("gives others a turn, and shows what is done so far", async () => {
    const map = weightMap(head({ nq: 1500, d: 32, seed: 4 }).block);
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    const done: number[] = [];
    const pooled = await overview(map, 64, 64, { onBand: (part) => done.push(part.done) });
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(0);
    expect(done.length).toBeGreaterThan(1);
    expect(done).toEqual([...done].sort((a, b) => a - b));
    expect(done.at(-1)).toBe(64);
    expect(pooled.cells[0]).toBe(1);
  });

  it("stops when it is no longer wanted", async () => {
    const map = weightMap(head({ nq: 1500, d: 32, seed: 4 }).block);
    const controller = new AbortController();
    const bands: number[] = [];
    const work = overview(map, 64, 64, { signal: controller.signal, onBand: ({ done }) => bands.push(done) && controller.abort() });
    await expect(work).rejects.toMatchObject({ name: "AbortError" });
    expect(bands).toHaveLength(1);
  });

  it("samples rows where all of them would take too long, and says so", async () => {
    const map = weightMap(head({ nq: 60, d: 8 }).block);
    const pooled = await overview(map, 6, 6, { budget: 6 * 60 * 8 * 2 });
    expect(pooled.sampled).toBe(true);
    const row = [...map.tile(50, 51, 0, 60), ...map.tile(55, 56, 0, 60)];
    expect(pooled.cells[5 * 6]).toBe(Math.max(...row.slice(0, 10), ...row.slice(60, 70)));
  });
});

describe("the strongest keys of a row", () => {
  it("are the fewest that carry the share, strongest first", () => {
    const row = Float32Array.from([0.1, 0.4, MASKED, 0.25, 0.2, 0.05, PADDED, 0]);
    expect([...strongest(row, 0.6).indices]).toEqual([1, 3]);
    const { indices, mass, rest, restCount } = strongest(row, 0.9);
    expect([...indices]).toEqual([1, 3, 4, 0]);
    expect(mass).toBeCloseTo(0.95, 6);
    expect(rest).toBeCloseTo(0.05, 6);
    expect(restCount).toBe(1);
  });

  it("agree with sorting, for any row and share", () => {
    const next = gaussian(5);
    for (let trial = 0; trial < 50; trial++) {
      const row = Float32Array.from({ length: 1 + trial }, () => Math.max(0, next()) ** 3);
      const total = row.reduce((sum, p) => sum + p, 0);
      const order = [...row.keys()].filter((j) => row[j] > 0).sort((a, b) => row[b] - row[a] || a - b);
      for (const share of [0.1, 0.5, 0.9, 0.99]) {
        let [count, mass] = [0, 0];
        while (count < order.length && mass < share * total * (1 - 1e-6)) mass += row[order[count++]];
        expect([...strongest(row, share).indices]).toEqual(order.slice(0, count));
      }
    }
  });

  it("with a share of one are all that carry anything", () => {
    const row = new Float32Array(1000).fill(0.001);
    row[5] = 0;
    const { indices, rest, restCount } = strongest(row, 1);
    expect(indices.length).toBeGreaterThanOrEqual(998);
    expect(restCount + indices.length).toBe(999);
    expect(rest).toBeLessThan(0.0011);
  });

  it("stop at the limit, and say what is left", () => {
    const { indices, mass, rest, restCount } = strongest(new Float32Array(100).fill(0.01), 0.9, 5);
    expect([...indices]).toEqual([0, 1, 2, 3, 4]);
    expect(mass).toBeCloseTo(0.05, 6);
    expect([rest, restCount]).toEqual([expect.closeTo(0.95, 5), 95]);
  });

  it("of a leaking row are a share of what the row has, not of one", () => {
    expect([...strongest(Float32Array.from([0.05, 0.005]), 0.9).indices]).toEqual([0]);
  });

  it("of a row without weights are none", () => {
    for (const row of [[], [MASKED, PADDED], [NaN, 0]]) expect(strongest(Float32Array.from(row), 0.9)).toEqual({ indices: new Uint32Array(), mass: 0, rest: 0, restCount: 0 });
  });

  it("leave NaN aside", () => {
    expect([...strongest(Float32Array.from([NaN, 0.3, 0.7, NaN]), 1).indices]).toEqual([2, 1]);
  });
});

describe("the summary of a map", () => {
  const identity = (n: number, at: (i: number) => number): WeightMap =>
    weightMap(weights(Array.from({ length: n }, (_, i) => Array.from({ length: n }, (__, j) => (at(i) === j ? 1 : 0)))));

  it("of the identity is no distance and one token", () => {
    const numbers = summary(identity(8, (i) => i));
    expect(numbers).toEqual({ distance: 0, effective: 1, first: 1 / 8, sampled: false });
  });

  it("of everything on the first token is half the length", () => {
    expect(summary(identity(9, () => 0))).toEqual({ distance: 4, effective: 1, first: 1, sampled: false });
  });

  it("of a uniform map is the number of keys", () => {
    const n = 10;
    const map = weightMap(weights(Array.from({ length: n }, () => new Array<number>(n).fill(1 / n))));
    const numbers = summary(map);
    expect(numbers?.effective).toBeCloseTo(n, 2);
    expect(numbers?.distance).toBeCloseTo((n - 1 / n) / 3, 2);
    expect(numbers?.first).toBeCloseTo(0.1, 4);
  });

  it("does not call a leaking row concentrated", () => {
    const numbers = summary(weightMap(weights([[0.1, 0.1]])));
    expect(numbers?.effective).toBeCloseTo(2, 3);
    expect(numbers?.first).toBeCloseTo(0.1, 4);
  });

  it("leaves out rows without keys", () => {
    expect(summary(weightMap(weights([["padded", "padded"], ["padded", 1]])))).toEqual({ distance: 0, effective: 1, first: 1, sampled: false });
  });

  it("of long maps looks at some rows, the first and the last among them", () => {
    const looked: number[] = [];
    const map = identity(700, (i) => i);
    const watched: WeightMap = { ...map, nq: 700, nk: 700, pooled: false, depth: 1, tile: (r0, r1, c0, c1, out) => (looked.push(r0), map.tile(r0, r1, c0, c1, out)) };
    expect(summary(watched)).toMatchObject({ distance: 0, sampled: true });
    expect([looked.length, looked[0], looked.at(-1)]).toEqual([256, 0, 699]);
    looked.length = 0;
    summary({ ...watched, depth: 700 });
    expect(looked).toHaveLength(61);
  });

  it("is none for pooled maps, and for maps without weights", () => {
    expect(summary(weightMap(weights([[1]], { rows: [0, 2], cols: [0, 2], step: [2, 2], n_q: 2, n_k: 2 })))).toBeNull();
    expect(summary(weightMap(weights([["padded"]])))).toBeNull();
    expect(summary(weightMap(head({ nq: 0, nk: 0 }).block))).toBeNull();
  });
});
