import { describe, expect, it } from "vitest";

import { codeOf } from "../src/saved.ts";
import { readTraits, State, SWITCHES, traitsOf } from "../src/state.ts";
import { bundleMeta } from "../src/wire.ts";
import { block, bundleMetaOf } from "./fixtures.ts";

describe("the code of a view", () => {
  const whole = bundleMeta(block("bundle", bundleMetaOf(), {}));
  const one = { objective: null, samples: { count: 1, at: 0, noun: "text" }, parts: whole.parts.slice(0, 1).map((part) => ({ ...part, measures: [] })) };

  it("names what is not as it is by itself, as Python writes it", () => {
    expect(codeOf(new State(), one)).toBe("AttentionWidget(attention)");
    const state = new State({ part: "decoder", layer: 5, head: 3, view: "heatmap", heads: [[1, 0], [2, 3]], pinned: [4, 7], sinks: false, threshold: 0.5, theme: "dark" });
    expect(codeOf(state, one)).toBe('AttentionWidget(attention, layer=5, head=3, heads=[(1, 0), (2, 3)], pinned=[4, 7], view="heatmap", sinks=False, threshold=0.5)');
    expect(codeOf(state, { ...one, parts: [...one.parts, ...one.parts] })).toContain('(attention, part="decoder", layer=5');
  });

  it("says which of several samples, and that there are measures of one's own", () => {
    expect(codeOf(new State({ sample: 0 }), { ...one, samples: { count: 3, at: 0, noun: "text" } })).toBe("AttentionWidget(attention, sample=0)");
    const mine = { ...one.parts[0], measures: [{ name: "mine", title: "mine", values: [[1]] }] };
    expect(codeOf(new State({ sort: "mine" }), { ...one, parts: [mine] })).toBe('AttentionWidget(attention, measures=measures, sort="mine")');
  });

  it("writes switches as a dict and quotes what has quotes", () => {
    const code = codeOf(new State({ switches: { ...SWITCHES, scale: false }, sort: 'the "best"' }), one);
    expect(code).toContain('sort="the \\"best\\""');
    expect(code).toContain('switches={"scale": False, "mask": True, "positions": True, "uniform": False, "temperature": 1}');
  });
});

describe("a view that was given a name", () => {
  it("holds all traits but the named views, and comes back as it was", () => {
    const state = new State({ part: "decoder", layer: 2, head: null, heads: [[0, 1]], views: { other: {} } });
    const kept = traitsOf(state);
    expect(kept).not.toHaveProperty("views");
    expect(readTraits(kept)).toEqual(kept);
  });

  it("is read as anything that comes from outside: what makes no sense is left out", () => {
    expect(readTraits({ layer: "five", head: 3, view: "pie", pinned: [1, -2, "x", 4], heads: [[0, 1], [0], "x"], made_up: 1, hover: { query: 0 } })).toEqual({ head: 3, pinned: [1, 4], heads: [[0, 1]] });
  });
});
