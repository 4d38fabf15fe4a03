/** What is said: exact, in two decimals, and never more than the weights tell. */

import { describe, expect, it } from "vitest";

import type { Spoken } from "../src/a11y.ts";
import { boundOf, cellSentence, columnSentence, counted, cut, deltaText, Names, plain, rowSentence, selectionText, stepped, weightText } from "../src/a11y.ts";
import { MASKED, PADDED } from "../src/math.ts";
import type { PartInfo } from "../src/wire.ts";

const LABELS = "The animal did n’t cross the street because it was too tired .".split(" ");
const spoken = (labels = LABELS, bound: Spoken["bound"] = ""): Spoken => ({ queries: new Names(labels), keys: new Names(labels), bound });
const row = (weights: Record<number, number>, fill = 0): Float32Array => Object.assign(new Float32Array(LABELS.length).fill(fill), weights);

describe("a row", () => {
  const it8 = row({ 1: 0.62, 6: 0.14, 0: 0.11, 8: 0.05, 7: 0.08 });

  it("names the three strongest and sums up the rest", () => {
    expect(plain(rowSentence([8], it8, 0, spoken()))).toBe("“it” routes 0.62 of its weight to “animal”, 0.14 to “street”, 0.11 to “The”, 0.13 to 2 others.");
  });

  it("says what leaves to the sink", () => {
    expect(plain(rowSentence([8], row({ 1: 0.79 }), 0.21, spoken()))).toBe("“it” routes 0.79 of its weight to “animal”, 0.21 leaves to the sink.");
    expect(plain(rowSentence([8], row({}), 1, spoken()))).toBe("“it” gives all of its weight to the sink.");
  });

  it("does not name what would only be “<0.01”", () => {
    expect(plain(rowSentence([8], row({ 1: 0.99 }, 0.0008), 0, spoken()))).toBe("“it” routes 0.99 of its weight to “animal”, 0.01 to 12 others.");
  });

  it("adds up pinned tokens and says of how much", () => {
    expect(plain(rowSentence([1, 8], row({ 1: 1.2, 0: 0.8 }), 0, spoken()))).toBe("2 pinned tokens together route 1.20 of their 2.00 to “animal”, 0.80 to “The”.");
  });

  it("claims no share where the map holds the largest of several heads", () => {
    expect(plain(rowSentence([8], it8, 0, spoken(LABELS, "at most ")))).toBe("“it” routes at most 0.62 to “animal”, 0.14 to “street”, 0.11 to “The”.");
  });

  it("says why there is nothing", () => {
    expect(plain(rowSentence([0], row({}, MASKED), 0, spoken()))).toBe("“The” may not look at any key (mask).");
    expect(plain(rowSentence([0], row({}, PADDED), 0, spoken()))).toBe("“The” is padding: it has no weights.");
    expect(plain(rowSentence([0], row({ 3: NaN }), 0, spoken()))).toBe("“The” has weights that are not numbers (NaN).");
  });

  it("of a query at which a token was produced says so, and never why", () => {
    const produced = (weights: Float32Array, leak = 0): string => plain(rowSentence([2], weights, leak, { ...spoken(), produced: 3 }));
    expect(produced(row({ 0: 0.31, 1: 0.69 }))).toBe("“n’t” was produced at “did”, which routes 0.69 of its weight to “animal”, 0.31 to “The”.");
    expect(produced(row({}), 1)).toBe("“n’t” was produced at “did”, which gives all of its weight to the sink.");
    expect(produced(row({ 3: NaN }))).toBe("“n’t” was produced at “did”, which has weights that are not numbers (NaN).");
  });

  it("tells apart tokens that look the same", () => {
    const labels = ["a", "b", "a"];
    expect(plain(rowSentence([2], Float32Array.of(0.7, 0.3, 0), 0, spoken(labels)))).toBe("“a” (2) routes 0.70 of its weight to “a” (0), 0.30 to “b”.");
  });
});

describe("a column and a cell", () => {
  it("says who looks at a key", () => {
    expect(plain(columnSentence(1, row({ 8: 0.62, 9: 0.2 }), spoken()))).toBe("“animal” receives 0.62 from “it”, 0.20 from “was”.");
    expect(plain(columnSentence(1, row({}), spoken()))).toBe("“animal” receives nothing.");
  });

  it("says the weight, or why there is none", () => {
    expect(plain(cellSentence(8, 1, 0.62, spoken()))).toBe("“it” → “animal”  0.62");
    expect(plain(cellSentence(1, 8, MASKED, spoken()))).toBe("“animal” cannot attend to “it” (mask)");
    expect(plain(cellSentence(1, 8, PADDED, spoken()))).toBe("“animal” → “it” is padding");
    expect(plain(cellSentence(1, 8, NaN, spoken()))).toBe("“animal” → “it”  NaN");
  });
});

it("differences have their sign", () => {
  expect([0.214, -0.1, 0.001, -0.001, 0].map(deltaText)).toEqual(["+0.21", "−0.10", "+<0.01", "−<0.01", "0"]);
});

it("weights have two decimals, and small is not nothing", () => {
  expect([0, 0.0001, 0.0049, 0.005, 0.125, 0.999, 1, 1.5, NaN].map(weightText)).toEqual(["0", "<0.01", "<0.01", "0.01", "0.13", "1.00", "1.00", "1.50", "NaN"]);
});

describe("names", () => {
  const layers = [3, 2, 3].map((heads, l) => ({ name: `h.${l}`, heads, kv_heads: heads, window: null, absent: null }));
  const part: PartInfo = { name: "decoder", title: "decoder self-attention", queries: 0, keys: 0, causal: true, layers, thumb: { rows: 1, cols: 1, sampled: false }, measures: [], aligned: null };

  it("say which heads were chosen", () => {
    expect(selectionText({ layer: null, head: null, reduce: "mean", heads: [[1, 0]] }, part)).toBe("Layer 1 · head 0");
    expect(selectionText({ layer: 1, head: 1, reduce: "max", heads: [[1, 0], [2, 2]] }, part)).toBe("Largest of 2 chosen heads");
  });

  it("say what is selected", () => {
    expect(selectionText({ layer: 1, head: 0, reduce: "mean" }, part)).toBe("Layer 1 · head 0");
    expect(selectionText({ layer: 1, head: null, reduce: "mean" }, part)).toBe("Layer 1 · mean of 2 heads");
    expect(selectionText({ layer: null, head: 2, reduce: "max" }, part)).toBe("Head 2 · largest of 2 layers");
    expect(selectionText({ layer: null, head: null, reduce: "mean" }, part)).toBe("Mean of all 8 heads");
    expect(selectionText({ layer: 0, head: null, reduce: "mean" }, { ...part, layers: [{ ...layers[0], heads: 0, absent: "not kept" }] })).toBe("Layer 0");
    expect(selectionText({ layer: null, head: null, reduce: "min" }, { ...part, layers: [{ ...layers[0], heads: 1 }] })).toBe("Smallest of 1 head");
  });

  it("know which maps share out a row", () => {
    expect(boundOf({ part: "", layer: 0, head: 0, reduce: "max" })).toBe("");
    expect(boundOf({ part: "", layer: 0, head: null, reduce: "max" })).toBe("at most ");
    expect(boundOf({ part: "", layer: null, head: 1, reduce: "min" })).toBe("at least ");
    expect(boundOf({ part: "", layer: 0, head: 0, reduce: "max", heads: [[0, 0], [1, 1]] })).toBe("at most ");
    expect(boundOf({ part: "", layer: null, head: null, reduce: "max", heads: [[0, 0]] })).toBe("");
    expect(boundOf({ part: "", layer: null, head: null, reduce: "mean", heads: [[0, 0], [1, 1]] })).toBe("");
  });

  it("are cut between characters", () => {
    expect(cut("short", 24)).toBe("short");
    expect(cut("x".repeat(200), 24)).toBe(`${"x".repeat(23)}…`);
    expect(cut("🐈".repeat(30), 24)).toBe(`${"🐈".repeat(23)}…`);
    expect(cut("🐈".repeat(20), 24)).toBe("🐈".repeat(20));
  });

  it("count", () => {
    expect([counted(1, "head"), counted(0, "edge"), counted(12345, "edge")]).toEqual(["1 head", "0 edges", "12\u202f345 edges"]);
  });
});

it("arrows step, Home and End jump, and only rows of buttons wrap", () => {
  expect(stepped("ArrowRight", 2, 3)).toBe(2);
  expect(stepped("ArrowRight", 2, 3, true)).toBe(0);
  expect(stepped("ArrowUp", 0, 3, true)).toBe(2);
  expect([stepped("Home", 2, 3), stepped("End", 0, 3), stepped("x", 0, 3), stepped("End", 0, 0)]).toEqual([0, 2, null, null]);
});
