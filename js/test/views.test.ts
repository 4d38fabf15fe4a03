/** Where things go on screen, and which edges are drawn: the parts of the views that need no browser. */

import { describe, expect, it } from "vitest";

import { focusOf, summed } from "../src/focus.ts";
import { groupsOf } from "../src/label.ts";
import { MASKED, PADDED, weightMap } from "../src/math.ts";
import { placeOf, stepAt } from "../src/scrubber.ts";
import { State } from "../src/state.ts";
import type { Tiles } from "../src/tiles.ts";
import { layOut as layOutArcs, strongestEdges, topOf } from "../src/views/arcs.ts";
import { layOut as layOutMap } from "../src/views/heatmap.ts";
import { cellAt, gridFor, shapeOf, widthBeside } from "../src/views/matrix.ts";
import type { Axis, PartInfo } from "../src/wire.ts";
import { bundleMeta } from "../src/wire.ts";
import { block, bundleMetaOf, head } from "./fixtures.ts";

const axisOf = (n: number, marks: Partial<Axis> = {}): Axis => ({ ...bundleMeta(block("bundle", bundleMetaOf(1, 1, n), {})).axes[0], ...marks });

describe("the matrix", () => {
  const shapes = [[1, 1], [2, 4], [12, 12], [24, 16], [32, 32], [80, 64]].map(([layers, heads]) => ({ layers, heads }));

  it.each(shapes)("of $layers × $heads stays within its room", (shape) => {
    for (const width of [396, 616, 876, 1376]) expect(gridFor(shape, width).width).toBeLessThanOrEqual(width);
  });

  it("shows few heads large and many heads legibly", () => {
    expect(gridFor({ layers: 2, heads: 4 }, 500).cell).toBe(64);
    expect(gridFor({ layers: 12, heads: 12 }, 500).cell).toBeGreaterThanOrEqual(24);
    for (const width of [616, 868]) expect(gridFor({ layers: 32, heads: 32 }, width).cell).toBeGreaterThanOrEqual(10);
  });

  it("leaves the detail its room, or the whole width under it", () => {
    for (const shape of shapes) {
      for (const width of [640, 868, 1368]) expect(widthBeside(shape, width) ?? 0).toBeLessThanOrEqual(width - 390);
      expect(widthBeside(shape, 600)).toBeNull();
    }
    expect(widthBeside({ layers: 32, heads: 32 }, 640)).toBeNull();
  });
});

describe("layers without attention", () => {
  const partOf = (absent: (string | null)[]): PartInfo => {
    const [part] = bundleMeta(block("bundle", bundleMetaOf(absent.length, 4), {})).parts;
    return { ...part, layers: part.layers.map((layer, l) => ({ ...layer, heads: absent[l] === null ? 4 : 0, absent: absent[l] })) };
  };
  const hybrid = partOf([null, "Mamba", "MLP", null, "Mamba", null]);

  it("that follow each other are one band, which knows why each has none", () => {
    expect(shapeOf(hybrid)).toEqual({ layers: 6, heads: 4, absent: [{ from: 1, to: 3, reasons: ["Mamba", "MLP"] }, { from: 4, to: 5, reasons: ["Mamba"] }] });
    expect(shapeOf(partOf([null, null])).absent).toEqual([]);
  });

  it("take little of the height, however many they are, and leave the others theirs", () => {
    const most = partOf(Array.from({ length: 48 }, (_, l) => (l % 8 === 4 ? null : "Mamba")));
    const grid = gridFor(shapeOf(most), 500);
    expect(grid.height).toBeLessThan(560);
    expect(grid.cell).toBeGreaterThanOrEqual(24);
    const bands = grid.absent.map(({ from, to }) => grid.tops[to] - grid.tops[from]);
    expect(Math.min(...bands)).toBeGreaterThanOrEqual(15); // room for a line of text
    expect(Math.max(...bands)).toBeLessThan(grid.cell);
  });

  it("leave every layer where its cells are found again", () => {
    const grid = gridFor(shapeOf(hybrid), 500);
    expect(grid.tops.every((top, layer) => layer === 0 || top > grid.tops[layer - 1])).toBe(true);
    for (const layer of [0, 3, 5]) expect(cellAt(grid, 60, grid.tops[layer] + grid.cell / 2)).toEqual({ layer, head: 0 });
    for (const layer of [1, 2, 4]) expect(cellAt(grid, 60, grid.tops[layer] + 2)).toEqual({ layer, head: 0 });
    expect(cellAt(grid, 60, grid.tops[6] + grid.cell / 2)).toEqual({ layer: null, head: 0 });
    expect(grid.tops[6] + grid.cell).toBeLessThanOrEqual(grid.height);
  });

  it("change nothing where there are none", () => {
    const { tops, cell, gap } = gridFor({ layers: 3, heads: 4 }, 400);
    expect(tops.map((top) => top - tops[0])).toEqual([0, cell + gap, 2 * (cell + gap), 3 * (cell + gap) + 6]);
  });
});

describe("tokens that stand together", () => {
  const named = (axis: Axis): unknown[] => groupsOf(axis).map(({ name, from, to }) => [name, from, to]);

  it("are the two texts of a pair, without the special tokens between them", () => {
    expect(named(axisOf(7, { segments: [-1, 0, 0, -1, 1, 1, -1] }))).toEqual([["A", 1, 3], ["B", 4, 6]]);
  });

  it("are the placeholders of an image, with its rows and columns where they are known", () => {
    expect(named(axisOf(8, { image: [1, 2, 3, 4, 6] }))).toEqual([["▦ image 4", 1, 5]]);
    expect(named(axisOf(8, { image: [1, 2, 3, 4], grid: [2, 2] }))).toEqual([["▦ image 2 × 2", 1, 5]]);
  });

  it("are what was generated, each turn by itself", () => {
    expect(named(axisOf(6, { generated: [1, 2, 5] }))).toEqual([["generated", 1, 3], ["generated", 5, 6]]);
    expect(named(axisOf(6))).toEqual([]);
  });
});

describe("the range of generated tokens", () => {
  it("has a place for each, and one more for all of them", () => {
    expect([0, 1, 2, 3, 9].map((place) => stepAt(place, 3))).toEqual([1, 2, 3, null, null]);
    expect(([1, 2, 3, null, 9] as const).map((step) => placeOf(step, 3))).toEqual([0, 1, 2, 3, 3]);
  });
});

describe("the focus, while a token is being produced", () => {
  const meta = bundleMeta(block("bundle", bundleMetaOf(1, 1, 6), {}));
  const { block: stored } = head({ nq: 6 });
  const shownAt = (fields: Partial<ConstructorParameters<typeof State>[0]>) => {
    const axes = meta.axes.map((axis) => ({ ...axis, generated: [3, 4, 5] }));
    const selection = { part: "decoder", layer: 0, head: 0, reduce: "mean" } as const;
    const map = weightMap(stored);
    const state = new State({ part: "decoder", map: { status: "ready", map, selection }, ...fields });
    return { map, focus: focusOf({ state, tiles: { meta: { ...meta, axes } } as Tiles, signal: new AbortController().signal }).current };
  };

  it("is the query it is produced at", () => {
    const { map, focus } = shownAt({ step: 2 });
    expect(focus.queries).toEqual([3]);
    expect([...(focus.row ?? [])]).toEqual([...(map.row(3) ?? [])]);
    expect(focus.moment).toEqual({ step: 2, token: 4, query: 3 });
  });

  it("is never on what comes later, nor counts it", () => {
    expect(shownAt({ step: 2, hover: { query: 5, key: null } }).focus.queries).toEqual([3]);
    expect(shownAt({ step: 2, pinned: [3, 1, 5] }).focus.queries).toEqual([3, 1]);
    expect(shownAt({ step: 2, hover: { query: null, key: 5 } }).focus.key).toBeNull();
    const { map, focus } = shownAt({ step: 2, hover: { query: null, key: 1 } });
    const whole = map.column(1) ?? new Float32Array();
    expect([...(focus.column ?? [])]).toEqual([...whole.slice(0, 4), MASKED, MASKED]);
    expect(whole[5]).toBeGreaterThan(0); // the map keeps what the moment leaves out
  });

  it("is what it always is once everything is shown", () => {
    const { focus } = shownAt({ step: null, hover: { query: 5, key: null } });
    expect([focus.queries, focus.moment]).toEqual([[5], null]);
  });
});

describe("arcs", () => {
  it("have columns that follow each other within the room", () => {
    for (const width of [360, 600, 1000]) {
      const { columns } = layOutArcs(13, 13, width, 70, 300);
      expect(columns.every((x, n) => n === 0 || x >= columns[n - 1])).toBe(true);
      expect(columns[5]).toBeLessThanOrEqual(width);
      expect(columns[3] - columns[2]).toBeGreaterThanOrEqual(60);
    }
  });

  it("scroll where rows would get too small to read", () => {
    expect(layOutArcs(13, 13, 800, 70, 70)).toMatchObject({ row: 26, height: 338, view: 338 });
    expect(layOutArcs(500, 500, 800, 70, 70)).toMatchObject({ row: 22, height: 11000, view: 560 });
  });

  it("keep rows apart, in order and inside, on a side that is shorter than the other", () => {
    for (const [nq, nk] of [[9, 14], [1, 30], [8, 200]]) {
      const layout = layOutArcs(nq, nk, 800, 70, 70);
      const tops = Array.from({ length: nq }, (_, i) => topOf(layout, i, nq));
      expect(tops.every((top, i) => i === 0 || top - tops[i - 1] >= layout.row - 1)).toBe(true);
      expect(tops[0]).toBeGreaterThanOrEqual(0);
      expect(tops[nq - 1] + layout.row).toBeLessThanOrEqual(layout.height + 1);
    }
  });

  it("draw the strongest edges when there are too many, and count them all", () => {
    const carried = (weights: number[]) => ({ keys: Uint32Array.from(weights.keys()), weights: Float32Array.from(weights) });
    const { edges, count } = strongestEdges([[0, carried([0.5, 0.25])], [7, carried([0.75, 0.125, 0.0625])]], 3);
    expect(count).toBe(5);
    expect(edges.map(({ query, weight }) => [query, weight])).toEqual([[7, 0.75], [0, 0.5], [0, 0.25]]);
  });
});

describe("the heat map", () => {
  it("has cells of whole screen pixels", () => {
    for (const ratio of [1, 1.5, 2]) {
      for (const n of [5, 13, 100, 333, 512]) {
        const { cell, rows, width, left, right } = layOutMap(n, n, 700, 60, 60, ratio);
        expect(cell * ratio).toBeCloseTo(Math.round(cell * ratio), 9);
        if (n <= 333) expect(rows).toBe(n);
        expect(left + width + right).toBeLessThanOrEqual(700);
      }
    }
  });

  it("pools what has fewer screen pixels than weights", () => {
    const { rows, cols, width } = layOutMap(4096, 4096, 700, 60, 60, 1);
    expect(rows).toBeLessThan(700);
    expect(cols).toBe(rows);
    expect(width).toBe(cols);
  });
});

it("pinned rows add up, and what no row may see stays masked", () => {
  const sum = summed([Float32Array.of(0.5, 0.5, MASKED, MASKED, PADDED), Float32Array.of(0.25, 0.25, 0.5, MASKED, MASKED)]);
  expect([...(sum ?? [])]).toEqual([0.75, 0.75, 0.5, MASKED, MASKED]);
  expect([...(summed([Float32Array.of(NaN, 1), Float32Array.of(0.5, 1)]) ?? [])]).toEqual([NaN, 2]);
  expect(summed([])).toBeNull();
});
