import { describe, expect, it } from "vitest";

import type { Asked } from "../src/carried.ts";
import { beyond, carriedBy, edgesText, foldsOf, LEGIBLE, strongestEdges } from "../src/carried.ts";
import { start } from "../src/draw.ts";
import type { Layout, Side } from "../src/layout.ts";
import { columns, drawnWithin, line, spanOf, tokensBetween } from "../src/layout.ts";
import { MASKED, PADDED } from "../src/math.ts";

const asIs = (at: number): number => at;
const inColumns = (nq: number, nk: number, width = 800, widest = 70) => columns({ nq, nk, width, widest: { query: widest, key: widest }, numbers: [48, 48] });
const inLine = (n: number, ahead = true, width = 700, numbers: [number, number] = [32, 18]): Layout => {
  const widths = Array.from({ length: n }, (_, i) => 10 + (i % 7) * 9);
  return line({ width, queries: widths, keys: widths, numbers, ahead, lanes: { query: 0, key: 0 } });
};
const inTwoLines = (nq: number, nk: number): Layout =>
  line({ width: 700, queries: new Array<number>(nq).fill(40), keys: new Array<number>(nk).fill(30), numbers: [32, 18], ahead: true, lanes: { query: 18, key: 18 } });

describe("two columns", () => {
  it("follow each other within the room", () => {
    for (const width of [360, 600, 1000]) {
      const { columns: x } = columns({ nq: 13, nk: 13, width, widest: { query: 70, key: 300 }, numbers: [48, 48] });
      expect(x.every((at, n) => n === 0 || at >= x[n - 1])).toBe(true);
      expect(x[5]).toBeLessThanOrEqual(width);
      expect(x[3] - x[2]).toBeGreaterThanOrEqual(60);
    }
  });

  it("scroll where rows would get too small to read", () => {
    expect(inColumns(13, 13)).toMatchObject({ row: 26, height: 338, view: 338 });
    expect(inColumns(500, 500)).toMatchObject({ row: 22, height: 11000, view: 560 });
  });

  it("keep rows apart, in order and inside, on a side that is shorter than the other", () => {
    for (const [nq, nk] of [[9, 14], [1, 30], [8, 200]]) {
      const layout = inColumns(nq, nk);
      const tops = Array.from({ length: nq }, (_, i) => layout.token("query", i).top);
      expect(tops.every((top, i) => i === 0 || top - tops[i - 1] >= layout.row - 1)).toBe(true);
      expect(tops[0]).toBeGreaterThanOrEqual(0);
      expect(tops[nq - 1] + layout.row).toBeLessThanOrEqual(layout.height + 1);
    }
  });

  it("give sentences two lines where there is room for them", () => {
    expect(columns({ nq: 5, nk: 5, width: 800, widest: { query: 300, key: 300 }, numbers: [48, 48], tall: true }).row).toBe(44);
    expect(columns({ nq: 90, nk: 90, width: 800, widest: { query: 300, key: 300 }, numbers: [48, 48], tall: true }).row).toBe(22);
  });
});

describe("one line", () => {
  const apart = (layout: Layout, side: Side): void => {
    const n = side === "query" ? layout.nq : layout.nk;
    for (let i = 1; i < n; i++) expect(spanOf(layout, side, i)[0]).toBeGreaterThanOrEqual(spanOf(layout, side, i - 1).reduce((a, b) => a + b));
    expect(spanOf(layout, side, 0)[0]).toBeGreaterThanOrEqual(0);
    expect(spanOf(layout, side, n - 1).reduce((a, b) => a + b)).toBeLessThanOrEqual(layout.width);
  };

  it.each([1, 4, 40, 400, 4000])("has %i tokens side by side, wide enough for their numbers, and scrolls where they do not fit", (n) => {
    const layout = inLine(n);
    apart(layout, "query");
    for (let i = 0; i < n; i++) expect(layout.token("query", i).width).toBeGreaterThanOrEqual(30);
    expect(layout.width > layout.view).toBe(n >= 40);
    expect(layout.height).toBeLessThan(560);
  });

  it("looks back above and ahead below, and needs no room below where nothing looks ahead", () => {
    const layout = inLine(9);
    const { top, height } = layout.token("query", 0);
    expect(layout.curve(7, 2, 0, asIs).filter((_, n) => n % 2 === 1).every((y) => y < top)).toBe(true);
    expect(layout.curve(2, 7, 0, asIs).filter((_, n) => n % 2 === 1).every((y) => y > top + height)).toBe(true);
    expect(inLine(9, false).height).toBeLessThan(layout.height);
  });

  it("has arcs that rise higher the further they reach, and stay inside", () => {
    for (const n of [3, 30, 300]) {
      const layout = inLine(n);
      const rises = Array.from({ length: n - 1 }, (_, j) => layout.curve(n - 1, n - 2 - j, 0, asIs)).map(([, y0, , y1]) => y0 - y1);
      expect(rises.every((rise, j) => j === 0 || rise >= rises[j - 1])).toBe(true);
      for (const [from, to] of [[n - 1, 0], [0, n - 1], [1, 1]]) {
        const [, y0, , y1] = layout.curve(from, to, 0, asIs);
        const peak = y0 + 0.75 * (y1 - y0);
        expect(peak).toBeGreaterThanOrEqual(0);
        expect(peak).toBeLessThanOrEqual(layout.height);
      }
    }
  });

  it("is two lines where queries and keys are different tokens, edges going up", () => {
    const layout = inTwoLines(12, 30);
    apart(layout, "query");
    apart(layout, "key");
    const [query, key] = [layout.token("query", 3), layout.token("key", 20)];
    const [x0, y0, , , , , x3, y3] = layout.curve(3, 20, 0, asIs);
    expect([x0, x3]).toEqual([query.left + query.width / 2, key.left + key.width / 2].map((x) => expect.closeTo(x, 0) as number));
    expect([y0 <= query.top, y3 >= key.top + key.height]).toEqual([true, true]);
  });

  it("sets the edges of several heads apart", () => {
    for (const layout of [inLine(9), inTwoLines(4, 4), inColumns(4, 4)]) expect(layout.curve(3, 1, 3, asIs)).not.toEqual(layout.curve(3, 1, 0, asIs));
  });
});

it("tokens in sight are found in either direction", () => {
  for (const layout of [inColumns(500, 300), inLine(400), inTwoLines(90, 200)]) {
    for (const side of ["query", "key"] as const) {
      const n = side === "query" ? layout.nq : layout.nk;
      const seen = Array.from({ length: n }, (_, i) => i).filter((i) => {
        const [at, size] = spanOf(layout, side, i);
        return at + size > 1000 && at < 1300;
      });
      expect(tokensBetween(layout, side, 1000, 1300)).toEqual([seen[0], seen[seen.length - 1] + 1]);
      expect(tokensBetween(layout, side, -10, 1e6)).toEqual([0, n]);
    }
  }
});

it("ends out of sight are drawn just outside, in order, and those in sight where they are", () => {
  const drawn = drawnWithin(1000, 2000);
  expect([1000, 1500, 2000].map(drawn)).toEqual([1000, 1500, 2000]);
  const far = [2100, 3000, 90000].map(drawn);
  expect(far.every((at, n) => at > (n === 0 ? 2000 : far[n - 1]))).toBe(true);
  expect(far[2]).toBeLessThan(3500);
  expect(drawn(900)).toBeCloseTo(3000 - drawn(2100), 9);
});

describe("edges", () => {
  const asked = (query: number, weights: number[], strand = 0): Asked => ({ query, strand, keys: Uint32Array.from(weights.keys()), weights: Float32Array.from(weights) });

  it("are the strongest where there are too many; all are counted, and what is left out is known", () => {
    const { edges, count, left } = strongestEdges([asked(0, [0.5, 0.25]), asked(7, [0.75, 0.125, 0.0625]), asked(9, [])], 3);
    expect(count).toBe(5);
    expect(edges.map(({ query, weight }) => [query, weight])).toEqual([[7, 0.75], [0, 0.5], [0, 0.25]]);
    expect(left).toBeCloseTo((0.125 + 0.0625) / 2, 9); // of the two rows that have weights
  });

  it("are at most as many as asked for, also among equals", () => {
    expect(strongestEdges([asked(0, [0.1, 0.1, 0.1, 0.1])], 2).edges).toHaveLength(2);
  });

  it("of differences are picked by their size, and keep their sign", () => {
    const { edges } = strongestEdges([asked(0, [-0.5, 0.25, -0.125])], 2);
    expect(edges.map(({ weight }) => weight)).toEqual([-0.5, 0.25]);
    expect([...carriedBy(Float32Array.of(0.1, -0.8, MASKED, NaN), 0.8).keys]).toEqual([1]);
  });

  it("know whose they are where several heads are drawn", () => {
    const { edges } = strongestEdges([asked(0, [0.5], 0), asked(0, [0.75], 1)], 9);
    expect(edges.map(({ strand, weight }) => [strand, weight])).toEqual([[1, 0.75], [0, 0.5]]);
  });

  it("are told in numbers", () => {
    const few = strongestEdges([asked(0, [0.5, 0.25])], LEGIBLE);
    expect(edgesText(few, 0.9, "")).toBe("2 edges carry 90 %");
    expect(edgesText(few, 1, "")).toBe("2 edges");
    expect(edgesText(few, 0.5, " of these 39 rows")).toBe("2 edges carry 50 % of these 39 rows");
    const more = strongestEdges([asked(0, [0.5, 0.25, 0.125])], 2);
    expect(edgesText(more, 0.9, "")).toBe("The strongest 2 of the 3 edges that carry 90 %; the other 1 carries 0.13 of a row on average");
    expect(edgesText(more, 1, " of these 4 rows")).toBe("The strongest 2 of the 3 edges of these 4 rows; the other 1 carries 0.13 of a row on average");
  });
});

describe("what is out of sight", () => {
  it("is how many edges end there, what they carry, and where most of it is", () => {
    const cells = Float32Array.of(0.25, MASKED, 0.5, NaN, 0.125, PADDED);
    expect(beyond(cells, new Set([0, 2]), 1, 6)).toEqual({ count: 1, mass: 0.625, most: 2 });
    expect(beyond(cells, new Set(), 5, 6)).toEqual({ count: 0, mass: 0, most: 5 });
    expect(beyond(Float32Array.of(-0.5, 0.25), new Set([0, 1]), 0, 2)).toEqual({ count: 2, mass: 0.75, most: 0 });
  });
});

it("words can be taken apart, and put together again at their first token", () => {
  // Words 0, 0, 1, 2, 2, 2 and a token of none; the last word is apart.
  expect(foldsOf([[0, 1], [2], [3], [4], [5], [6]], [0, 0, 1, 2, 2, 2, -1])).toEqual(["+", null, "−", null, null, null]);
});

it("the beginning of a curve lies on it", () => {
  const curve = [0, 0, 10, 40, 30, 40, 40, 0] as const;
  const half = start(curve, 0.5);
  expect(half.slice(0, 2)).toEqual([0, 0]);
  expect(half.slice(6)).toEqual([20, 30]);
  expect(start(curve, 1)).toEqual([...curve]);
});
