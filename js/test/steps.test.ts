/** One head step by step: the numbers of the golden files (from PyTorch), and the parts of the view that need no browser. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { describe, expect, it } from "vitest";

import type { Switches } from "../src/head.ts";
import { ABSENT, ALLOWED, descending, Head, HIDDEN, moved, products, reach, shareAlong, worthALine } from "../src/head.ts";
import { barOf, changesOf, figure, percent, scaleText, stagesOf, weightFigure } from "../src/stages.ts";
import { SWITCHES } from "../src/state.ts";
import { wrap } from "../src/strips.ts";
import { countBefore, headsOf, placesOf } from "../src/views/steps.ts";
import type { Block, PartInfo } from "../src/wire.ts";
import { bundleMeta, unpack } from "../src/wire.ts";
import { block, bundleMetaOf, f32, f32s, gaussian, i16, i32, u8 } from "./fixtures.ts";

interface Case {
  query: number;
  switches: Switches;
  dot: (number | null)[];
  score: (number | null)[];
  weight: (number | null)[];
  leak: number;
  entropy: number;
  z?: number[];
  contribution?: number[];
}

const GOLDEN = fileURLToPath(new URL("../../tests/golden", import.meta.url));
const names = readdirSync(GOLDEN).filter((file) => /^steps-.*\.bin$/.test(file)).map((file) => file.slice(0, -".bin".length));

it("there are golden files of steps", () => {
  expect(names).toContain("steps-plain");
});

describe.each(names)("golden file %s", async (name) => {
  const { cases } = (JSON.parse(readFileSync(join(GOLDEN, `${name}.json`), "utf8")) as { steps: { cases: Case[] } }).steps;
  const head = new Head(await unpack(readFileSync(join(GOLDEN, `${name}.bin`))));

  /** Within 1e-4, of the largest number where that is above 1. */
  const near = (got: ArrayLike<number>, wanted: readonly (number | null)[], what: string): void => {
    const size = wanted.reduce<number>((most, x) => Math.max(most, Math.abs(x ?? 0)), 1);
    expect(got.length, what).toBe(wanted.length);
    wanted.forEach((x, at) => { if (x !== null) expect(Math.abs(got[at] - x), `${what}, ${at}: ${got[at]} and ${x}`).toBeLessThanOrEqual(1e-4 * size); });
  };

  it.each(cases.map((one) => [`query ${one.query}, ${JSON.stringify(one.switches)}`, one] as const))("%s", (_, wanted) => {
    const { row, z, written } = head.outcome(wanted.query, wanted.switches);
    near(row.dot, wanted.dot, "dot");
    near(row.score, wanted.score, "score");
    near(row.weight, wanted.weight, "weight");
    wanted.weight.forEach((p, j) => { expect(row.sees[j] === ALLOWED, `key ${j} is allowed`).toBe(p !== null); });
    near([row.leak, row.entropy], [wanted.leak, wanted.entropy], "leak and entropy");
    expect(z === null).toBe(wanted.z === undefined);
    expect(written === null).toBe(wanted.contribution === undefined);
    if (z !== null) near(z, wanted.z ?? [], "z");
    if (written !== null) near(written, wanted.contribution ?? [], "contribution");
  });
});

interface Made {
  n?: number;
  d?: number;
  meta?: Record<string, unknown>;
  arrays?: Parameters<typeof block>[2];
}

/** A causal head of random vectors. */
function made({ n = 6, d = 4, meta = {}, arrays = {} }: Made = {}): Block {
  const next = gaussian(n * d);
  const vectors = (): number[] => Array.from({ length: n * d }, next);
  return block(
    "steps",
    { n_q: n, n_k: n, d, d_v: d, scale: d ** -0.5, softcap: null, sink: false, positions: null, positions_why: "None.", bias_positional: false, stored: null, missing: null, output: "out", model_width: 3, ...meta },
    {
      q: f32([n, d], vectors()), k: f32([n, d], vectors()), v: f32([n, d], vectors()), o: f32([3, d], vectors().slice(0, 3 * d)),
      start: i32([n], Array.from({ length: n }, () => 0)), stop: i32([n], Array.from({ length: n }, (_, i) => i + 1)), keep: u8([n], Array.from({ length: n }, () => 1)),
      ...arrays,
    },
  );
}

describe("a head", () => {
  it("adds the shares of its keys up to the whole sum", () => {
    const head = new Head(made());
    const { row, z } = head.outcome(4, SWITCHES);
    if (z === null) throw new Error("there is a sum");
    const shares = Array.from(row.weight, (p, j) => p * shareAlong(head.value(j), z));
    expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 10);
    expect(Array.from(products(head.query(4), head.key(2))).reduce((sum, x) => sum + x, 0)).toBeCloseTo(row.dot[2], 10);
  });

  it("spreads less without 1/√d, and evenly with uniform attention", () => {
    const head = new Head(made({ n: 40, d: 64 }));
    const own = head.row(39, SWITCHES);
    const unscaled = head.row(39, { ...SWITCHES, scale: false });
    expect(unscaled.effective).toBeLessThan(own.effective / 2);
    expect(own.spread.dot / own.spread.scaled).toBeCloseTo(8, 6);
    const uniform = head.row(39, { ...SWITCHES, uniform: true });
    expect(uniform.effective).toBeCloseTo(40, 8);
    expect(uniform.weight[7]).toBeCloseTo(1 / 40, 10);
    expect(moved(own, own)).toBe(0);
    expect(moved(own, uniform)).toBeGreaterThan(0.1);
  });

  it("lets a query see what comes later when the mask is off, but no padding", () => {
    const head = new Head(made({ arrays: { keep: u8([6], [1, 1, 1, 1, 1, 0]) } }));
    expect(Array.from(head.row(1, SWITCHES).sees)).toEqual([ALLOWED, ALLOWED, HIDDEN, HIDDEN, HIDDEN, ABSENT]);
    expect(Array.from(head.row(1, { ...SWITCHES, mask: false }).sees)).toEqual([ALLOWED, ALLOWED, ALLOWED, ALLOWED, ALLOWED, ABSENT]);
    expect(Array.from(head.row(1, { ...SWITCHES, mask: false }, 3).sees)).toEqual([ALLOWED, ALLOWED, ALLOWED]);
  });

  it("gives a query without keys nothing, with the mask off too", () => {
    const head = new Head(made({ arrays: { stop: i32([6], [0, 2, 3, 4, 5, 6]) } }));
    for (const mask of [true, false]) {
      const { row, z } = head.outcome(0, { ...SWITCHES, mask });
      expect([row.allowed, row.leak, row.entropy, row.effective]).toEqual([0, 0, 0, 0]);
      expect(Array.from(z ?? [])).toEqual([0, 0, 0, 0]);
    }
  });

  it("keeps its weights where scores are huge", () => {
    const head = new Head(made({ meta: { scale: 1e4 } }));
    const { weight, entropy } = head.row(5, { ...SWITCHES, temperature: 0.1 });
    expect(weight.reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 10);
    expect(entropy).toBeCloseTo(0, 6);
  });

  it("shows NaN as such", () => {
    const nan = new Head(made({ arrays: { k: f32([6, 4], Array.from({ length: 24 }, (_, x) => (x === 0 ? NaN : 1))) } }));
    const row = nan.row(2, SWITCHES);
    expect([row.weight[0], row.entropy, row.effective]).toEqual([NaN, NaN, NaN]);
    expect([reach(Float32Array.of(1, NaN, -3, Infinity)), reach(Float32Array.of(NaN))]).toEqual([3, 0]);
  });

  it("divides the sink by the temperature too, as if it were captured as weights", () => {
    const [head, hot] = [new Head(made({ arrays: { sink: f32s([1.5]) } })), { ...SWITCHES, temperature: 2 }];
    const { weight, leak } = head.row(5, SWITCHES);
    const roots = [...weight, leak].map(Math.sqrt);
    const all = roots.reduce((sum, root) => sum + root, 0);
    const row = head.row(5, hot);
    [...row.weight, row.leak].forEach((p, j) => { expect(p).toBeCloseTo(roots[j] / all, 10); });
    expect(row.sink).toBe(0.75);
  });

  it("says what is wrong with its data", () => {
    const arrays = made().arrays;
    arrays.delete("q");
    expect(() => new Head({ ...made(), arrays })).toThrow("“q” is missing");
    expect(() => new Head(block("qk", {}, {}))).toThrow("hold no vectors");
    expect(() => new Head(made({ arrays: { v: f32([2, 4], [0, 0, 0, 0, 0, 0, 0, 0]) } }))).toThrow("“v” is f32 [2, 4]");
    expect(() => new Head(made({ arrays: { sink: f32s([1, 2]) } }))).toThrow("2 sinks for 6 queries");
  });

  it("reads vectors of 16 bits", () => {
    const head = new Head(made({ arrays: { v: i16([6, 4], Array.from({ length: 24 }, (_, x) => x)), v_step: f32s([1, 2, 3, 4, 5, 6]) } }));
    expect(Array.from(head.value(2))).toEqual([24, 27, 30, 33]);
  });
});

describe("the steps", () => {
  const columns = (meta: Record<string, unknown>, query: number, switches: Partial<Switches> = {}, arrays = {}): string[] => {
    const head = new Head(made({ meta, arrays }));
    return stagesOf(head, head.row(query, SWITCHES), { ...SWITCHES, ...switches }).columns.map(({ step, head: text }) => `${step} ${text}`);
  };

  it("are those that do something", () => {
    expect(columns({}, 5)).toEqual(["2 q·k", "3 ÷ √4", "4 softmax", "5 × v"]);
    expect(columns({}, 2)).toEqual(["2 q·k", "3 ÷ √4", "4 mask", "5 softmax", "6 × v"]);
    expect(columns({ softcap: 50, scale: 0.1 }, 5, { temperature: 2, uniform: true }, { bias: f32s(Array.from({ length: 11 }, () => 0)) })).toEqual(
      ["2 q·k", "3 × 0.1", "4 cap ±50", "5 + bias, ÷ T", "6 uniform", "7 × v"],
    );
    expect(columns({ d_v: null }, 5)).toEqual(["2 q·k", "3 ÷ √4", "4 softmax"]);
  });

  it("of stored weights begin with them", () => {
    const head = new Head(made({ n: 2, meta: { d: null, scale: 1, stored: "Weights." }, arrays: { weights: f32([2, 2], [1, 0, 0.25, 0.75]) } }));
    expect(stagesOf(head, head.row(1, SWITCHES), SWITCHES).columns.map(({ head: text }) => text)).toEqual(["ln p", "softmax", "× v"]);
    expect(head.row(1, SWITCHES).weight[1]).toBeCloseTo(0.75, 7);
    expect(Array.from(head.row(0, SWITCHES).weight)).toEqual([1, 0]);
  });

  it("say in words what is changed", () => {
    const head = { d: 4, positions: null };
    expect(changesOf(SWITCHES, head)).toEqual([]);
    expect(changesOf({ ...SWITCHES, scale: false, mask: false, positions: false, temperature: 2.5 }, head)).toEqual(["no scaling", "no mask", "temperature 2.5"]);
    expect(changesOf({ ...SWITCHES, positions: false }, { d: 4, positions: "rotary" })).toEqual(["no positions"]);
    expect(changesOf({ ...SWITCHES, uniform: true, temperature: 2 }, head)).toEqual(["uniform attention"]);
    expect(changesOf({ ...SWITCHES, scale: false }, { d: null, positions: null })).toEqual([]);
  });

  it("have numbers that can be read", () => {
    expect([0, -0.001, 1.005, -12.3456, 104.87, 1234.5, -1e7, NaN, -Infinity].map(figure)).toEqual(["0.00", "0.00", "1.00", "−12.35", "104.9", "1235", "−1.0e+7", "NaN", "−∞"]);
    expect([0.554, -0.011, 0].map(percent)).toEqual(["55 %", "−1 %", "0 %"]);
    expect([0, 0.0001, 0.002, 0.0094, 0.62, 1, NaN].map(weightFigure)).toEqual(["0", "<0.001", "0.002", "0.009", "0.62", "1.00", "NaN"]);
    expect(scaleText({ scale: 0.125, d: 64 })).toBe("÷ √64");
    expect(scaleText({ scale: 0.0883883, d: 256 })).toBe("× 0.0884");
  });

  it("have bars from zero, to either side, within their room", () => {
    expect(barOf(5, -5, 5)).toEqual({ left: 50, width: 50 });
    expect(barOf(-2.5, -5, 5)).toEqual({ left: 25, width: 25 });
    expect(barOf(3, 0, 0)).toEqual({ left: 0, width: 0 });
    expect(barOf(Infinity, 0, 4)).toEqual({ left: 0, width: 100 });
    expect(barOf(NaN, 0, 4)).toEqual({ left: 0, width: 0 });
  });
});

describe("which keys have a line", () => {
  const head = new Head(made({ n: 200, d: 8 }));
  const [own, now] = [head.row(120, SWITCHES), head.row(120, { ...SWITCHES, mask: false })];

  it("all where there are few", () => {
    expect(worthALine(own, now, 200, [])).toHaveLength(200);
  });

  it("the strongest as it is and as it is switched, the traced one with them, in the order of the text", () => {
    const keys = worthALine(own, now, 16, [199]);
    expect(keys).toHaveLength(16);
    expect(keys).toEqual([...keys].sort((a, b) => a - b));
    expect(keys).toContain(199);
    const strongestOf = (weight: Float64Array): number => weight.indexOf(Math.max(...weight));
    expect(keys).toContain(strongestOf(own.weight));
    expect(keys).toContain(strongestOf(now.weight));
  });
});

describe("which head", () => {
  const [part] = bundleMeta(block("bundle", bundleMetaOf(2, 3), {})).parts;
  const sorted: PartInfo = { ...part, measures: [{ name: "entropy", title: "", values: [[1, 5, 2], [4, 0, null]] }] };
  const of = { part: "decoder", reduce: "mean" } as const;

  it("is the one that is selected", () => {
    expect(headsOf({ ...of, layer: 1, head: 2 }, part).one).toEqual([1, 2]);
    expect(headsOf({ ...of, layer: null, head: null, heads: [[0, 1]] }, part).one).toEqual([0, 1]);
  });

  it("is to be chosen from those that are reduced, the highest of a measure first", () => {
    expect(headsOf({ ...of, layer: 1, head: null }, part)).toEqual({ one: null, offered: [[1, 0], [1, 1], [1, 2]] });
    expect(headsOf({ ...of, layer: null, head: 1 }, part).offered).toEqual([[0, 1], [1, 1]]);
    expect(headsOf({ ...of, layer: null, head: null, heads: [[1, 2], [0, 0]] }, part).offered).toEqual([[1, 2], [0, 0]]);
    expect(headsOf({ ...of, layer: null, head: null }, sorted, "entropy").offered).toEqual([[0, 1], [1, 0], [0, 2], [0, 0], [1, 1], [1, 2]]);
  });
});

it("tokens of one side of a comparison are found on the common axis, and back", () => {
  const { outside, inside } = placesOf([0, -1, 1, 2]);
  expect([0, 1, 2, 9].map(outside)).toEqual([0, 2, 3, -1]);
  expect([0, 1, 2, 3, 9].map(inside)).toEqual([0, -1, 1, 2, -1]);
  expect(placesOf(null).outside(5)).toBe(5);
});

it("strips wrap rather than shrink out of sight", () => {
  expect(wrap(16, 600)).toEqual({ lines: 1, perLine: 16, cell: 22, tall: 18 });
  const long = wrap(256, 300);
  expect(long.lines).toBeGreaterThan(1);
  for (const [n, width] of [[64, 300], [128, 200], [256, 420], [768, 300], [4096, 500]]) {
    const { lines, perLine, cell } = wrap(n, width);
    expect(lines * perLine).toBeGreaterThanOrEqual(n);
    expect(perLine * cell).toBeLessThanOrEqual(width + 1e-9);
    expect(cell).toBeGreaterThan(1.2);
  }
});

it("dimensions can be sorted by their product", () => {
  expect(descending([0.5, -2, 3, 0] as unknown as Float64Array)).toEqual([2, 0, 3, 1]);
});

it("the keys before a token are counted where one of two attentions lacks it", () => {
  const places = placesOf([0, 1, -1, 2, -1, -1, 3]);
  expect([0, 1, 2, 3, 4, 5, 6].map((place) => countBefore(places, place))).toEqual([0, 1, 2, 2, 3, 3, 3]);
  expect(countBefore(placesOf(null), 5)).toBe(5);
});
