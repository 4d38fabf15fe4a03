/** Texts, tables and patches: what is where, without a browser. */

import { describe, expect, it } from "vitest";

import { paddingOf } from "../src/carried.ts";
import { edgesOf, rankOf, received } from "../src/edges.ts";
import type { WeightMap } from "../src/math.ts";
import { MASKED, PADDED, weightMap } from "../src/math.ts";
import { patchBeside, patchesOf, sharesOf } from "../src/patches.ts";
import { paddedSpecials, reading, tinting } from "../src/reading.ts";
import { contrast, PALETTES } from "../src/theme.ts";
import type { Ranked } from "../src/views/table.ts";
import { csv, decimals, sorted } from "../src/views/table.ts";
import type { Axis } from "../src/wire.ts";
import { bundleMeta } from "../src/wire.ts";
import { block, bundleMetaOf, f32, u8 } from "./fixtures.ts";

const axisOf = (labels: string[], marks: Partial<Axis> = {}): Axis => ({ ...bundleMeta(block("bundle", bundleMetaOf(1, 1, labels.length), {})).axes[0], labels, raw: labels, special: [], ...marks });

/** A map of given cells; codes are written as MASKED and PADDED. */
function mapOf(rows: number[][]): WeightMap {
  const cells = rows.flat();
  const [nq, nk] = [rows.length, rows[0].length];
  const code = cells.map((cell) => (cell === MASKED ? 255 : cell === PADDED ? 254 : Number.isNaN(cell) ? 253 : 0));
  return weightMap(block("weights", { n_q: nq, n_k: nk, rows: [0, nq], cols: [0, nk], step: [1, 1] }, { exact: f32([nq, nk], cells.map((cell) => (cell > MASKED ? cell : 0))), code: u8([nq, nk], code) }));
}

const textOf = (axis: Axis, hidden?: Set<number>): string => reading(axis, hidden).map((bit) => (bit.kind === "token" ? `<${axis.labels[bit.at]}>` : bit.kind === "image" ? `[${bit.name}]` : bit.text)).join("");

describe("a text to read", () => {
  it("keeps what stands between tokens, line breaks and all", () => {
    expect(textOf(axisOf(["Hi", "there", "you"], { before: ["", " ", "\n\n  "] }))).toBe("<Hi> <there>\n\n  <you>");
  });

  it("breaks the line behind a token that is a line break, and sets tokens without a text apart", () => {
    expect(textOf(axisOf(["a", "⏎", "b", "c"]))).toBe("<a> <⏎>\n<b> <c>");
    expect(textOf(axisOf(["a", "⏎⏎⏎", "b"], { before: ["", "", ""] }))).toBe("<a><⏎⏎⏎>\n\n<b>");
  });

  it("shows an image as one, and leaves out what is hidden", () => {
    expect(textOf(axisOf(["a", "▦", "▦", "▦", "▦", "b"], { image: [1, 2, 3, 4], grid: [2, 2] }))).toBe("<a> [▦ image 2 × 2] <b>");
    expect(textOf(axisOf(["[CLS]", "0,0", "0,1"], { grid: [1, 2], first_patch: 1 }))).toBe("<[CLS]> [▦ image 1 × 2]");
    expect(textOf(axisOf(["a", "b", "[PAD]"], { before: ["", " ", " "] }), new Set([2]))).toBe("<a> <b>");
  });

  it("leaves out padding, and nothing that is only masked or no special token", () => {
    const map = mapOf([[0.5, 0.5, MASKED, PADDED], [0.2, 0.3, 0.5, PADDED], [1, 0, 0, PADDED], [PADDED, PADDED, PADDED, PADDED]]);
    expect([...paddedSpecials(map, axisOf(["a", "b", "c", "[PAD]"], { special: [0, 2, 3] }), "key")]).toEqual([3]);
    expect([...paddedSpecials(map, axisOf(["a", "b", "c", "[PAD]"], { special: [0, 3] }), "query")]).toEqual([3]);
    expect([...paddedSpecials(map, axisOf(["a", "b", "c", "d"]), "key")]).toEqual([]);
  });

  it("takes no key for padding because a query has nothing, as one that only one side of a comparison has", () => {
    const bare = mapOf([[PADDED, PADDED, PADDED], [PADDED, 0.5, PADDED], [PADDED, 0.2, 0.3]]);
    for (const map of [bare, { ...bare, allowed: () => 2 }]) { // a difference may see what either side may
      expect([...paddingOf(map)]).toEqual([0, 2]);
      expect([...paddedSpecials(map, axisOf(["[BOS]", "b", "c"], { special: [0, 1] }), "key")]).toEqual([0]);
    }
  });
});

describe("tints", () => {
  const rgb = (colour: string): number[] => colour.match(/[\d.]+/g)?.map(Number) ?? [];

  it.each(["light", "dark"] as const)("leave %s text legible, and grow with the weight", (theme) => {
    const palette = PALETTES[theme];
    for (const signed of [false, true]) {
      const tint = tinting(palette, "sqrt", signed);
      const alphas = (signed ? [-1, -0.4, -0.1, 0.1, 0.4, 1] : [0.01, 0.1, 0.4, 1]).map((weight) => {
        const [r, g, b, alpha] = rgb(tint.of(weight, 8));
        const mixed = [r, g, b].map((channel, i) => palette.ground[i] + (channel - palette.ground[i]) * alpha) as unknown as typeof palette.ink;
        expect(contrast(mixed, palette.ink)).toBeGreaterThanOrEqual(4.5);
        return Math.sign(weight) * alpha;
      });
      expect(alphas).toEqual([...alphas].sort((a, b) => a - b));
    }
  });

  it("are none for no weight, for codes, and below uniform on that scale", () => {
    const tint = tinting(PALETTES.light, "uniform", false);
    expect([0, MASKED, PADDED, NaN, 0.1].map((cell) => tint.of(cell, 8))).toEqual(["", "", "", "", ""]);
    expect(tint.of(0.5, 8)).not.toBe("");
  });
});

describe("all rows of a map", () => {
  const map = mapOf([[1, MASKED, MASKED], [0.25, 0.75, MASKED], [0.5, 0.125, 0.375]]);

  it("give its strongest edges and how many carry a share", async () => {
    const { edges, carrying, every } = await edgesOf(map, 0.7, 3);
    expect(edges).toEqual([{ query: 0, key: 0, weight: 1 }, { query: 1, key: 1, weight: 0.75 }, { query: 2, key: 0, weight: 0.5 }]);
    expect({ carrying, every }).toEqual({ carrying: 4, every: 1 });
    expect((await edgesOf(map, 1, 200)).edges).toHaveLength(6);
    expect((await edgesOf(map, 1, 200, { queries: 2 })).edges).toHaveLength(3);
    expect((await edgesOf(map, 1, 200, { budget: 6 })).every).toBe(2);
  });

  it("give what keys receive on average", async () => {
    const { row, queries } = await received(mapOf([[1, MASKED, PADDED], [0.25, 0.75, PADDED], [PADDED, PADDED, PADDED]]));
    expect(Array.from(row)).toEqual([0.625, 0.375, PADDED]);
    expect(queries).toBe(2);
    expect((await received(mapOf([[NaN, 1], [0.5, 0.5]]))).row[0]).toBeNaN();
  });

  it("know which place a key has in its row", () => {
    const row = Float32Array.of(0.2, 0.5, 0.2, MASKED, -0.4);
    expect([1, 4, 0, 2].map((key) => rankOf(row, key))).toEqual([1, 2, 3, 4]);
  });
});

describe("the table", () => {
  const edges: Ranked[] = [{ query: 2, key: 0, weight: 0.5, rank: 1, of: 3 }, { query: 0, key: 1, weight: -0.75, rank: 2, of: 3 }, { query: 1, key: 2, weight: 0.125, rank: 1, of: 3 }];

  it("is sorted by any column, either way", () => {
    expect(sorted(edges, "query", false).map(({ query }) => query)).toEqual([0, 1, 2]);
    expect(sorted(edges, "weight", true).map(({ weight }) => weight)).toEqual([0.5, 0.125, -0.75]);
    expect(sorted(edges, "rank", true).map(({ query }) => query)).toEqual([0, 2, 1]);
  });

  it("is copied with its quotes, commas and line breaks, and runs nothing in a spreadsheet", () => {
    const axis = axisOf(['say "hi", you', "=1+1", "two\nlines"]);
    expect(csv(edges, { queries: axis, keys: axis }).split("\r\n")).toEqual([
      "query,query_token,key,key_token,weight,rank",
      '2,"two\nlines",0,"say ""hi"", you",0.5,1',
      `0,"say ""hi"", you",1,"'=1+1",-0.75,2`,
      `1,"'=1+1",2,"two\nlines",0.125,1`,
      "",
    ]);
  });

  it("writes four decimals", () => {
    expect([0.5, 0.00001, 0, 1, NaN].map((weight) => decimals(weight, false))).toEqual(["0.5000", "<0.0001", "0.0000", "1.0000", "NaN"]);
    expect([0.5, -0.25].map((weight) => decimals(weight, true))).toEqual(["+0.5000", "−0.2500"]);
  });
});

describe("patches", () => {
  it("are found behind a class token, as placeholders in a text, and in a window", () => {
    const labels = (n: number): string[] => Array.from({ length: n }, String);
    expect(patchesOf(axisOf(labels(7), { grid: [2, 3], first_patch: 1 }))?.tokens).toEqual([1, 2, 3, 4, 5, 6]);
    expect(patchesOf(axisOf(labels(8), { grid: [2, 2], image: [1, 2, 4, 5] }))?.tokens).toEqual([1, 2, 4, 5]);
    expect(patchesOf(axisOf(labels(6), { kind: "window", grid: [2, 3] }))?.of.get(5)).toBe(5);
    expect(patchesOf(axisOf(labels(6)))).toBeNull();
    expect(patchesOf(axisOf(labels(5), { grid: [2, 3], first_patch: 0 }))).toBeNull();
    expect(patchesOf(axisOf(labels(8), { grid: [2, 2], image: [1, 2, 4] }))).toBeNull();
  });

  it("share a row with what stands beside them", () => {
    const patches = patchesOf(axisOf(["[CLS]", "[REG]", "0,0", "0,1"], { grid: [1, 2], first_patch: 2 }));
    expect(patches).not.toBeNull();
    if (patches === null) return;
    expect(sharesOf(Float32Array.of(0.25, 0.5, 0.125, 0.125), patches)).toEqual({ picture: 0.25, most: 0.125, others: [{ token: 1, weight: 0.5 }, { token: 0, weight: 0.25 }] });
    expect(sharesOf(Float32Array.of(0, MASKED, NaN, 1), patches)).toEqual({ picture: 1, most: 1, others: [] });
  });

  it("are walked by arrows, and no further than the edge", () => {
    const grid = { rows: 2, cols: 3 };
    expect(["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "Home", "End", "x"].map((key) => patchBeside(key, 1, grid))).toEqual([2, 4, 0, 1, 0, 2, null]);
    expect(patchBeside("ArrowRight", 5, grid)).toBe(5);
  });
});
