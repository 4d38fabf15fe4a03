/** Where things go on screen, and which edges are drawn: the parts of the views that need no browser. */

import { describe, expect, it } from "vitest";

import { summed } from "../src/focus.ts";
import { MASKED, PADDED } from "../src/math.ts";
import { layOut as layOutArcs, strongestEdges, topOf } from "../src/views/arcs.ts";
import { layOut as layOutMap } from "../src/views/heatmap.ts";
import { gridFor, widthBeside } from "../src/views/matrix.ts";

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
