/** Heads in their order, where they are at any size, what lies in a rectangle, and the numbers they are sorted by. */

import { describe, expect, it } from "vitest";

import { valueText } from "../src/a11y.ts";
import type { Grid } from "../src/grid.ts";
import {
  asInModel, cellOf, every, gridFor, headersOf, layerMean, leftOf, moved, ordered, ordinal, placeAt, placeOf, placesIn, rangeOf, reaching, shapeOf,
  sharedAlike, sharing, sizesFor, TALLEST, widthBeside, windowsDiffer, within,
} from "../src/grid.ts";
import { PALETTES } from "../src/theme.ts";
import { inksOf, marksOf, paintThumb, strongestCode, thumbsOf } from "../src/thumbs.ts";
import type { LayerInfo, PartInfo } from "../src/wire.ts";
import { bundleMeta, measuresOf } from "../src/wire.ts";
import { block, bundleMetaOf, f32, u8 } from "./fixtures.ts";

function partOf(layers: number, heads: number, change: (layer: number) => Partial<LayerInfo> = () => ({})): PartInfo {
  const [part] = bundleMeta(block("bundle", bundleMetaOf(layers, heads), {})).parts;
  return { ...part, layers: part.layers.map((layer, l) => ({ ...layer, ...change(l) })) };
}

const absent = (reasons: (string | null)[]): PartInfo => partOf(reasons.length, 4, (l) => (reasons[l] === null ? {} : { heads: 0, kv_heads: 0, absent: reasons[l] }));
const shapes = [[1, 1], [2, 4], [12, 12], [24, 16], [32, 32], [80, 64]].map(([layers, heads]) => ({ layers, heads }));

describe("the matrix", () => {
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

  it("makes room for what stands around the heads, and for no more", () => {
    const plain = gridFor({ layers: 4, heads: 4 }, 300);
    const framed = gridFor({ layers: 4, heads: 4, lanes: { left: 16, top: 15, right: 40, bottom: 16 } }, 300, plain);
    expect([framed.width - plain.width, framed.height - plain.height]).toEqual([16 + 40, 15 + 16]);
    expect(gridFor({ layers: 4, heads: 4, lanes: { left: 16, top: 15, right: 40, bottom: 16 } }, 300).width).toBeLessThanOrEqual(300);
  });
});

describe("sizes", () => {
  it.each(shapes)("of $layers × $heads grow from all at once to whole maps", (shape) => {
    for (const width of [250, 616, 1068]) {
      const { sizes, home } = sizesFor(shape, width);
      const all = gridFor(shape, width, sizes[0]);
      if (sizes[0].cell > 2) expect([all.width <= width, all.height <= TALLEST]).toEqual([true, true]);
      expect(sizes.every(({ cell }, n) => n === 0 || cell > sizes[n - 1].cell)).toBe(true);
      expect(sizes[sizes.length - 1].cell).toBeGreaterThanOrEqual(140);
      expect(sizes[home]).toEqual({ cell: gridFor(shape, width).cell, gap: gridFor(shape, width).gap });
    }
  });

  it("begin with cells that show something, also where not all of them are in sight then", () => {
    const { sizes, home } = sizesFor({ layers: 80, heads: 64 }, 1068);
    expect(home).toBe(1);
    expect(sizes[home].cell).toBeGreaterThanOrEqual(8);
  });

  it("keep the spot that is looked at", () => {
    const shape = shapeOf(absent([null, "Mamba", "Mamba", null, null, null]));
    const { sizes } = sizesFor(shape, 500);
    const [small, large] = [gridFor(shape, 500, sizes[0]), gridFor(shape, 500, sizes[sizes.length - 1])];
    const spot = (grid: Grid) => [leftOf(grid, 2) + grid.cell / 2, grid.tops[4] + grid.cell / 2] as const;
    const [x, y] = moved(small, large, ...spot(small));
    expect(placeAt(large, x, y)).toEqual({ row: 4, col: 2 });
    const [bx, by] = moved(large, small, x, y);
    expect(bx).toBeCloseTo(spot(small)[0], 6);
    expect(by).toBeCloseTo(spot(small)[1], 6);
  });
});

describe("layers without attention", () => {
  const hybrid = absent([null, "Mamba", "MLP", null, "Mamba", null]);

  it("that follow each other are one band, which knows why each has none", () => {
    expect(shapeOf(hybrid)).toMatchObject({
      layers: 6, heads: 4, absent: [{ from: 1, to: 3, layers: [1, 2], reasons: ["Mamba", "MLP"] }, { from: 4, to: 5, layers: [4], reasons: ["Mamba"] }],
    });
    expect(shapeOf(absent([null, null])).absent).toEqual([]);
  });

  it("take little of the height, however many they are, and leave the others theirs", () => {
    const most = absent(Array.from({ length: 48 }, (_, l) => (l % 8 === 4 ? null : "Mamba")));
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
    for (const row of [0, 3, 5]) expect(placeAt(grid, 60, grid.tops[row] + grid.cell / 2)).toEqual({ row, col: 0 });
    for (const row of [1, 2, 4]) expect(placeAt(grid, 60, grid.tops[row] + 2)).toEqual({ row, col: 0 });
    expect(placeAt(grid, 60, grid.tops[6] + grid.cell / 2)).toEqual({ row: 6, col: 0 });
    expect(grid.tops[6] + grid.cell).toBeLessThanOrEqual(grid.height);
  });

  it("change nothing where there are none", () => {
    const { tops, cell, gap } = gridFor({ layers: 3, heads: 4 }, 400);
    expect(tops.map((top) => top - tops[0])).toEqual([0, cell + gap, 2 * (cell + gap), 3 * (cell + gap) + 6]);
  });

  it("come last where layers are sorted", () => {
    const values = [[1, 2, 3, 4], [], [], [9, 9, 9, 9], [], [5, 5, 5, 5]];
    const order = ordered(hybrid, values, true);
    expect(order.layers).toEqual([3, 5, 0, 1, 2, 4]);
    expect(shapeOf(hybrid, order).absent).toMatchObject([{ from: 3, to: 6, layers: [1, 2, 4], reasons: ["Mamba", "MLP", "Mamba"] }]);
  });
});

describe("places", () => {
  const part = partOf(3, 4, (l) => (l === 1 ? { heads: 2, kv_heads: 2 } : {}));
  const values = [[0.1, 0.4, null, 0.3], [0.9, 0.8], [0.5, 0.5, 0.6, NaN]];

  it("are those of the model until heads are sorted", () => {
    const order = asInModel(part);
    expect(cellOf(order, { row: 2, col: 3 })).toEqual({ layer: 2, head: 3 });
    expect(cellOf(order, { row: 1, col: 3 })).toBeNull();
    expect(cellOf(order, { row: 1, col: 4 })).toEqual({ layer: 1, head: null });
    expect(cellOf(order, { row: 3, col: 2 })).toEqual({ layer: null, head: 2 });
    expect(cellOf(order, { row: 3, col: 4 })).toEqual({ layer: null, head: null });
  });

  it("go by value within each layer, what has none last, equals as they were", () => {
    const order = ordered(part, values, false);
    expect(order.layers).toEqual([0, 1, 2]);
    expect(order.heads).toEqual([[1, 3, 0, 2], [0, 1], [2, 0, 1, 3]]);
    expect(ordered(part, values, true).layers).toEqual([1, 2, 0]);
  });

  it("are found again from the cell, in any order", () => {
    for (const order of [asInModel(part), ordered(part, values, true)]) {
      for (let row = 0; row <= 3; row++) {
        for (let col = 0; col <= 4; col++) {
          const cell = cellOf(order, { row, col });
          if (cell !== null) expect(placeOf(order, cell)).toEqual({ row, col });
        }
      }
    }
  });

  it("in a rectangle are its heads, from whatever corner, without margins", () => {
    const order = asInModel(part);
    const heads = [[0, 1], [0, 2], [1, 1], [2, 1], [2, 2]];
    expect(within(order, { row: 0, col: 1 }, { row: 2, col: 2 })).toEqual(heads);
    expect(within(order, { row: 2, col: 2 }, { row: 0, col: 1 })).toEqual(heads);
    expect(within(order, { row: 3, col: 4 }, { row: 2, col: 3 })).toEqual([[2, 3]]);
    expect(within(order, placeOf(order, { layer: 9, head: 9 }), { row: 0, col: 1 })).toEqual([[0, 0], [0, 1]]); // begun where there is no head
    expect(within(ordered(part, values, true), { row: 0, col: 0 }, { row: 0, col: 1 })).toEqual([[1, 0], [1, 1]]);
  });

  it("in sight are all that a window touches, and no more than one beyond", () => {
    const grid = gridFor({ layers: 80, heads: 64 }, 1000, { cell: 24, gap: 3 });
    const { r0, r1, c0, c1 } = placesIn(grid, 300, 400, 700, 900);
    for (const [x, y] of [[300, 400], [699, 899], [500, 600]]) {
      const place = placeAt(grid, x, y);
      expect(place !== null && place.row >= r0 && place.row < r1 && place.col >= c0 && place.col < c1).toBe(true);
    }
    expect((r1 - r0) * (c1 - c0)).toBeLessThanOrEqual((400 / 27 + 2) * (500 / 27 + 2));
    expect(placesIn(grid, 0, 0, grid.width, grid.height)).toEqual({ r0: 0, r1: 81, c0: 0, c1: 65 });
    expect(headersOf(grid).top).toBeLessThan(grid.tops[0]);
  });
});

describe("measures", () => {
  const part = partOf(2, 3);
  const values = [[0.1, 0.5, NaN], [0.5, null, 0.9]];

  it("have a range, a mean for each layer, and heads that reach a value", () => {
    expect(rangeOf(values)).toEqual([0.1, 0.9]);
    expect(rangeOf([[null]])).toBeNull();
    expect([layerMean(values, 0), layerMean(values, 1), layerMean(values, 7)]).toEqual([0.3, 0.7, null]);
    expect(reaching(part, values, 0.5)).toEqual([3, 6]);
  });

  it("are read from an answer as far as they can be", () => {
    const answer = (measures: unknown) => measuresOf(block("measures", { measures }, {}));
    expect(answer([{ name: "entropy", title: "in nats", values: [[1, "x"], null] }])).toEqual([{ name: "entropy", title: "in nats", values: [[1, null], []] }]);
    expect(() => answer("none")).toThrow("measures is not a list");
    expect(() => answer([{ name: 3 }])).toThrow("name is not text");
  });

  it("are written short, with a sign that can be seen", () => {
    expect([0, 0.5, 3.14159, 12.34, 1234.5, 0.0012, -0.25].map(valueText)).toEqual(["0", "0.50", "3.14", "12.3", "1235", "0.001", "−0.25"]);
  });

  it("give ranks", () => {
    expect([1, 2, 3, 4, 10, 11, 12, 13, 21, 22, 31, 64, 101, 111].map(ordinal).join(" ")).toBe("1st 2nd 3rd 4th 10th 11th 12th 13th 21st 22nd 31st 64th 101st 111th");
    expect(every(9, 10, 25)).toEqual([0, 4, 8]);
  });
});

describe("what layers have in common", () => {
  it("is which heads share keys and values", () => {
    const grouped = partOf(2, 8, () => ({ kv_heads: 2 }));
    expect(sharing(grouped.layers[0])).toEqual([[0, 4], [4, 8]]);
    expect(sharing(partOf(1, 8).layers[0])).toEqual([]);
    expect(sharedAlike(grouped)).toEqual([[0, 4], [4, 8]]);
    expect(shapeOf(grouped).lanes?.top).toBeGreaterThan(0);
    expect(shapeOf(grouped, ordered(grouped, [], false)).lanes?.top).toBe(0);
    expect(sharedAlike(partOf(2, 8, (l) => ({ kv_heads: l + 1 })))).toBeNull();
    expect(sharedAlike(partOf(3, 8, (l) => (l === 1 ? { heads: 0, kv_heads: 0, absent: "Mamba" } : { kv_heads: 1 })))).toEqual([[0, 8]]);
  });

  it("is how far they look back", () => {
    expect(windowsDiffer(partOf(4, 2, (l) => ({ window: l % 2 === 0 ? 8 : null })))).toBe(true);
    expect(windowsDiffer(partOf(4, 2, () => ({ window: 8 })))).toBe(false);
    expect(windowsDiffer(partOf(4, 2, (l) => (l === 0 ? { heads: 0, window: null } : { window: 8 })))).toBe(false);
  });
});

describe("thumbnails", () => {
  const part = partOf(1, 1);
  const codes = [250, 0, 0, 0, 255, 125, 0, 10, 255, 255, 60, 0, 255, 255, 255, 253];
  const arrays = (data: number[], n: number) => ({
    heads: u8([1, 1, n, n], data), ...Object.fromEntries(["mean", "max", "min"].map((name) => [name, u8([3, n, n], [...data, ...data, ...data])])), allowed: f32([1, n], Array.from({ length: n }, () => n)),
  });
  const thumbs = thumbsOf(block("thumbs", { vmax: 1 }, arrays(codes, 4)));
  const pixels = (from: typeof thumbs, data: number[], size: number, marks?: number): number[] => {
    const box = { pixels: new Uint32Array(size * size), stride: size, at: 0, width: size, height: size };
    paintThumb(from, Uint8Array.from(data), inksOf(from, part, PALETTES.light, "linear")(0), box, marks);
    return [...box.pixels];
  };
  const lut = inksOf(thumbs, part, PALETTES.light, "linear")(0)(0);

  it("have a pixel for each code, or several alike", () => {
    expect(pixels(thumbs, codes, 4)).toEqual(codes.map((code) => lut[code]));
    const twice = pixels(thumbs, codes, 8);
    expect([0, 2, 5, 7].map((x) => twice[2 * 8 + x])).toEqual([255, 125, 0, 10].map((code) => lut[code]));
    expect(twice.slice(0, 8)).toEqual(twice.slice(8, 16));
  });

  it("show the strongest where there are fewer pixels, or fewer marks", () => {
    const strongest = [250, 10, 255, 253].map((code) => lut[code]);
    expect(pixels(thumbs, codes, 2)).toEqual(strongest);
    const marked = pixels(thumbs, codes, 4, 2);
    expect([marked[0], marked[3], marked[12], marked[15]]).toEqual(strongest);
    expect([marksOf(10), marksOf(12), marksOf(32)]).toEqual([5, 6, Infinity]);
  });

  it("of differences are furthest from none where they are strongest, on either side", () => {
    const signed = thumbsOf(block("thumbs", { vmax: 1, signed: true }, arrays([125, 250, 0, 100], 2)));
    expect([...signed.weights.slice(0, 251).filter((_, v) => [0, 100, 125, 150, 250].includes(v))].map((p) => p.toFixed(2))).toEqual(["-1.00", "-0.04", "0.00", "0.04", "1.00"]);
    expect(strongestCode(Uint8Array.of(130, 60, 180, 255), 4, 0, 1, 0, 4, true)).toBe(60);
    expect(strongestCode(Uint8Array.of(130, 60, 180, 255), 4, 0, 1, 0, 4, false)).toBe(180);
    const [none, more, less] = pixels(signed, [125, 250, 0, 100], 2);
    expect(new Set([none, more, less]).size).toBe(3);
  });
});
