/** Where things go on screen, and which edges are drawn: the parts of the views that need no browser. */

import { describe, expect, it } from "vitest";

import { focusOf, summed } from "../src/focus.ts";
import { groupsOf } from "../src/label.ts";
import { MASKED, PADDED, weightMap } from "../src/math.ts";
import { placeOf, stepAt } from "../src/scrubber.ts";
import { State } from "../src/state.ts";
import type { Axis } from "../src/wire.ts";
import { bundleMeta } from "../src/wire.ts";
import { block, bundleMetaOf, head } from "./fixtures.ts";

const axisOf = (n: number, marks: Partial<Axis> = {}): Axis => ({ ...bundleMeta(block("bundle", bundleMetaOf(1, 1, n), {})).axes[0], ...marks });

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
  const [plain] = bundleMeta(block("bundle", bundleMetaOf(1, 1, 6), {})).axes;
  const { block: stored } = head({ nq: 6 });
  const shownAt = (fields: Partial<ConstructorParameters<typeof State>[0]>) => {
    const axis = { ...plain, generated: [3, 4, 5] };
    const selection = { part: "decoder", layer: 0, head: 0, reduce: "mean" } as const;
    const map = weightMap(stored);
    const source = { map, row: (i: number) => Promise.resolve(map.tile(i, i + 1, 0, map.nk)), column: (j: number) => Promise.resolve(map.tile(0, map.nq, j, j + 1)) };
    const ready = { status: "ready", ...source, selection, axes: { queries: axis, keys: axis }, groups: { queries: null, keys: null }, overlaid: [] } as const;
    const state = new State({ part: "decoder", map: ready, ...fields });
    return { map, focus: focusOf({ state, signal: new AbortController().signal }).current };
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

it("pinned rows add up, and what no row may see stays masked", () => {
  const sum = summed([Float32Array.of(0.5, 0.5, MASKED, MASKED, PADDED), Float32Array.of(0.25, 0.25, 0.5, MASKED, MASKED)]);
  expect([...(sum ?? [])]).toEqual([0.75, 0.75, 0.5, MASKED, MASKED]);
  expect([...(summed([Float32Array.of(NaN, 1), Float32Array.of(0.5, 1)]) ?? [])]).toEqual([NaN, 2]);
  expect(summed([])).toBeNull();
});
