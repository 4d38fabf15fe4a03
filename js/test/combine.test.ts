import { describe, expect, it } from "vitest";

import type { Source } from "../src/combine.ts";
import { difference, gathered, grouped, joined, placed } from "../src/combine.ts";
import { MASKED, overview, PADDED, strongest, weightMap } from "../src/math.ts";
import type { WeightMap } from "../src/math.ts";
import type { Axis } from "../src/wire.ts";
import { head, weights } from "./fixtures.ts";

const sourceOf = (map: WeightMap): Source => ({
  map,
  row: (i) => Promise.resolve(map.tile(i, i + 1, 0, map.nk)),
  column: (j) => Promise.resolve(map.tile(0, map.nq, j, j + 1)),
});
const stored = (rows: Parameters<typeof weights>[0]): Source => sourceOf(weightMap(weights(rows)));
const all = ({ map }: Source): number[] => [...map.tile(0, map.nq, 0, map.nk)];
const near = (cells: readonly number[]): unknown[] => cells.map((cell): unknown => expect.closeTo(cell, 3));

/** Rows, columns and tiles of a source are cuts of its whole map. */
async function agrees(source: Source): Promise<void> {
  const { map } = source;
  const whole = map.tile(0, map.nq, 0, map.nk);
  for (let i = 0; i < map.nq; i++) {
    const row = [...whole.subarray(i * map.nk, (i + 1) * map.nk)];
    expect([...(map.row(i) ?? [])]).toEqual(row);
    expect([...(await source.row(i))]).toEqual(row);
    expect([...map.tile(i, i + 1, 1, map.nk)]).toEqual(row.slice(1));
  }
  for (let j = 0; j < map.nk; j++) {
    const column = Array.from({ length: map.nq }, (_, i) => whole[i * map.nk + j]);
    expect([...(map.column(j) ?? [])]).toEqual(column);
    expect([...(await source.column(j))]).toEqual(column);
  }
}

describe("several heads", () => {
  const options = [{ seed: 1 }, { seed: 2 }, { seed: 3, sink: 0.5 }].map((each) => head({ nq: 9, ...each }));
  const sources = options.map(({ block }) => sourceOf(weightMap(block)));

  it.each(["mean", "max", "min"] as const)("are joined cell by cell: %s", async (reduce) => {
    const made = joined(sources, reduce);
    await agrees(made);
    for (let i = 0; i < 9; i++) {
      for (let j = 0; j < 9; j++) {
        const cells = options.map(({ expected }) => expected[i][j]).filter((cell) => cell !== null);
        const wanted = { mean: cells.reduce((sum, cell) => sum + cell / 3, 0), max: Math.max(...cells), min: Math.min(...cells) }[reduce];
        expect(made.map.tile(i, i + 1, j, j + 1)[0]).toEqual(j > i ? MASKED : expect.closeTo(wanted, 5));
      }
    }
  });

  it("leak on the mean what they leak on the mean", () => {
    expect(joined(sources, "mean").map.leak(4)).toBeCloseTo(sources[2].map.leak(4) / 3, 6);
    expect(joined(sources, "max").map.leak(4)).toBe(0);
  });

  it("have a weight where one of them has, are masked where all are, and NaN where one is", () => {
    const made = joined([stored([[0.5, "masked", "padded", NaN]]), stored([["masked", "masked", "padded", 0.5]])], "mean");
    expect(all(made)).toEqual([expect.closeTo(0.25, 4), MASKED, PADDED, NaN]);
  });

  it("of which one is pooled are pooled, with exact rows of each", async () => {
    const pooled: Source = { map: { ...stored([[1, 0]]).map, pooled: true }, row: () => Promise.resolve(Float32Array.of(0.5, 0.5)), column: () => Promise.resolve(Float32Array.of(0.5)) };
    const made = joined([pooled, stored([[1, 0]])], "mean");
    expect([made.map.pooled, made.map.row(0)]).toEqual([true, null]);
    expect([...(await made.row(0))]).toEqual([0.75, 0.25]);
  });
});

describe("groups of tokens", () => {
  const axis = (labels: string[], words: number[] | null, extra: Partial<Axis> = {}): Axis => ({
    kind: "token", labels, raw: labels, special: [], generated: [], image: [], punctuation: [], segments: null, words, sentences: null, grid: null,
    first_patch: null, picture: null, before: null, ...extra,
  });

  it("are words, with what stands between their pieces, specials by themselves", () => {
    const groups = gathered(axis(["<s>", "un", "able", "New", "York", "."], [-1, 0, 0, 1, 1, 2], { special: [0], punctuation: [5], before: ["", "", "", " ", " ", ""] }), "word", []);
    expect(groups?.axis).toMatchObject({ labels: ["<s>", "unable", "New York", "."], special: [0], punctuation: [3], words: null, before: ["", "", " ", ""] });
    expect([[...(groups?.of ?? [])], groups?.members]).toEqual([[0, 1, 1, 2, 2, 3], [[0], [1, 2], [3, 4], [5]]]);
    expect(gathered(axis(["a"], null), "word", [])).toBeNull();
  });

  it("fall apart where they are expanded", () => {
    expect(gathered(axis(["un", "able", "New", "York"], [0, 0, 1, 1]), "word", [3])?.members).toEqual([[0, 1], [2], [3]]);
  });

  it("get what their keys get together, from the mean of their queries (Clark et al. 2019)", async () => {
    const words = gathered(axis(["a", "b", "c", "d", "e"], [0, 0, 1, 2, 2]), "word", []);
    const { block, expected } = head({ nq: 5, seed: 4 });
    const made = grouped(sourceOf(weightMap(block)), words, words);
    await agrees(made);
    const members = words?.members ?? [];
    for (const [g, askers] of members.entries()) {
      for (const [h, keys] of members.entries()) {
        const wanted = askers.reduce((sum, i) => sum + keys.reduce((row, j) => row + (expected[i][j] ?? 0), 0), 0) / askers.length;
        expect(made.map.tile(g, g + 1, h, h + 1)[0]).toEqual(h > g ? MASKED : expect.closeTo(wanted, 5));
      }
    }
    expect([made.map.nq, made.map.allowed(0), made.map.allowed(1), made.map.allowed(2)]).toEqual([3, 1, 2, 3]); // groups, not tokens
  });

  it("do not count queries that see nothing, unless there are no others", () => {
    const both = gathered(axis(["a", "b"], [0, 0]), "word", []);
    expect(all(grouped(stored([["padded", "padded"], [0.5, 0.5]]), both, null))).toEqual(near([0.5, 0.5]));
    expect(all(grouped(stored([["padded", "padded"], ["padded", "padded"]]), both, both))).toEqual([PADDED]);
  });

  it("cannot be added up from a pooled map", () => {
    const { map } = stored([[1]]);
    expect(() => grouped({ ...stored([[1]]), map: { ...map, pooled: true } }, null, null)).toThrow(/too large to be here whole/);
  });
});

describe("two attentions", () => {
  const [a, b] = [stored([[0.75, 0.25, "masked"], [0.5, 0.25, 0.25]]), stored([[0.5, 0.5, "masked"], [0.5, "masked", 0.5]])];

  it("are subtracted cell by cell; what only one may not see is nothing there", async () => {
    const made = difference(a, b);
    await agrees(made);
    expect(all(made)).toEqual([...near([0.25, -0.25]), MASKED, ...near([0, 0.25, -0.25])]);
    expect(made.map.signed).toBe(true);
  });

  it("stand on common axes, padded where one has no such token", async () => {
    const made = placed(a, [0, -1, 1], [2, -1, 0, 1]);
    await agrees(made);
    expect(all(made)).toEqual([MASKED, PADDED, ...near([0.75, 0.25]), PADDED, PADDED, PADDED, PADDED, ...near([0.25]), PADDED, ...near([0.5, 0.25])]);
    expect([made.map.nq, made.map.nk, made.map.allowed(1), made.map.allowed(2)]).toEqual([3, 4, 0, 3]);
    expect(all(difference(made, made))[1]).toBe(PADDED);
  });

  it("that are pooled give no strongest difference: what their cells are is said", () => {
    const pooled: Source = { ...a, map: { ...a.map, pooled: true, step: [2, 2] } };
    expect(difference(a, b).map.pooled).toBe(false);
    expect(difference(pooled, b).map).toMatchObject({ pooled: true, pooledAs: "about A’s strongest less B’s strongest" });
    expect(joined([pooled, pooled], "max").map.pooledAs).toBe("the strongest");
    expect(joined([pooled, pooled], "mean").map.pooledAs).toBe("the mean of each head’s strongest");
    expect(placed(pooled, [-1, 0, 1], [0, 1, 2]).map.pooledAs).toBe("about the strongest");
  });

  it("are pooled by size, and ordered by size, with their sign", async () => {
    const { cells } = await overview(difference(a, b).map, 1, 1);
    expect(Math.abs(cells[0])).toBeCloseTo(0.25, 3);
    const { indices, mass } = strongest(Float32Array.of(0.1, -0.4, MASKED, 0.2, PADDED), 1);
    expect([[...indices], mass]).toEqual([[1, 3, 0], expect.closeTo(0.7, 6)]);
  });
});
