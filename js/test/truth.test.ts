/** What edges do to an objective: from the wire to words, against sums made by hand. */

import { describe, expect, it, vi } from "vitest";

import { Names, plain, rowSentence } from "../src/a11y.ts";
import type { Groups } from "../src/combine.ts";
import { deed, effectsOf, effectText, signedText } from "../src/effects.ts";
import { focusOf } from "../src/focus.ts";
import { MASKED, weightMap } from "../src/math.ts";
import type { MapState, Shown } from "../src/state.ts";
import { effectsIn, follow, State } from "../src/state.ts";
import { Strands } from "../src/strands.ts";
import { PALETTES, signedColourAt } from "../src/theme.ts";
import { bundleSource, kernelSource } from "../src/tiles.ts";
import { verdict } from "../src/verify.ts";
import { csv, sorted } from "../src/views/table.ts";
import type { Block } from "../src/wire.ts";
import { bundleMeta, headsKey } from "../src/wire.ts";
import { block, bundleMetaOf, i16, u8, weights } from "./fixtures.ts";

const NONE = { queries: null, keys: null };
const CODES = [[16000, -32768, -32768], [-32000, 8000, -32768], [0, 0, 0]]; // the last query reaches nothing
const WORDS = "the logit of ' mat' at token 2";
const sent = block("effects", { part: "decoder", n_q: 3, n_k: 3, step: 1e-4, largest: 3.2 }, { codes: i16([3, 3], CODES.flat()), reach: u8([3], [1, 1, 0]) });
const effects = effectsOf(sent, WORDS, [3, 3], NONE);

describe("effects", () => {
  it("are the codes times their step, and the mask", () => {
    expect(effects.largest).toBeCloseTo(3.2, 12);
    const cells = Array.from(effects.map.tile(0, 3, 0, 3), (cell) => (cell === MASKED ? null : cell * effects.largest));
    CODES.flat().forEach((code, n) => {
      if (code === -32768) expect(cells[n]).toBeNull();
      else expect(cells[n]).toBeCloseTo(code * 1e-4, 6);
    });
    expect(Array.from(effects.map.column(0) ?? [])).toEqual([0.5, -1, 0]);
    expect([0, 1, 2].map((i) => effects.reach(i))).toEqual([true, true, false]);
  });

  it("of words are the sums of those of their tokens, over queries as over keys", () => {
    const groups = { of: Int32Array.of(0, 0, 1), members: [[0, 1], [2]] } as unknown as Groups;
    const words = effectsOf(sent, WORDS, [3, 3], { queries: groups, keys: groups });
    expect(words.map.nq).toBe(2);
    expect(words.largest).toBeCloseTo(0.8, 6); // |1.6 − 3.2 + 0.8|
    expect(Array.from(words.map.tile(0, 2, 0, 2))).toEqual([-1, MASKED, 0, 0]);
    expect([0, 1].map((i) => words.reach(i))).toEqual([true, false]);
  });

  it("that are all 0 have no size, and divide by nothing", () => {
    const none = effectsOf(block("effects", { step: 1 }, { codes: i16([1, 2], [0, -32768]), reach: u8([1], [0]) }), WORDS, [1, 2], NONE);
    expect([none.largest, ...none.map.tile(0, 1, 0, 2)]).toEqual([0, 0, MASKED]);
  });

  it("of other tokens are refused", () => {
    expect(() => effectsOf(sent, WORDS, [4, 3], NONE)).toThrow("expected i16 [4, 3]");
  });
});

describe("in words", () => {
  it("an edge adds, takes, or cannot reach", () => {
    expect(deed(effects, 0.5, true)).toBe(`adds 1.60 to ${WORDS} (first order)`);
    expect(deed(effects, -0.1, true)).toBe(`takes 0.32 from ${WORDS} (first order)`);
    expect(deed(effects, 0, false)).toBe(`cannot reach ${WORDS}`);
  });

  it("numbers have their sign; what is nothing beside the largest is no number", () => {
    expect([0.5, -0.1, 0.001, -0.001, 0].map((share) => effectText(effects, share))).toEqual(["+1.60", "−0.32", "≈0", "≈0", "0"]);
    expect([12.34, -0.00034, 0].map(signedText)).toEqual(["+12.3", "−3e−4", "0"]);
  });

  it("a row names what its strongest edge does at length, and the others in brackets", () => {
    const names = new Names(["The", "cat", "sat"]);
    const said = rowSentence([1], Float32Array.of(0.6, 0.4, MASKED), 0, {
      queries: names, keys: names, bound: "", effect: (at, first) => (first ? `, which ${deed(effects, -1, true)}` : ` (${effectText(effects, [0, 0.25][at])})`),
    });
    expect(plain(said)).toBe(`“cat” routes 0.60 of its weight to “The”, which takes 3.20 from ${WORDS} (first order), 0.40 to “cat” (+0.80).`);
  });

  it("a verdict says what was found beside what was expected, and leaves out what there is not", () => {
    const whole = { zero: -0.29, estimate: -0.312, knock_out: 0.281, knock_out_estimate: 0.00035, p: [0.41, 0.0052], rank: [1, 2] };
    expect(verdict(block("verified", whole, {}), "it")).toBe("without it it changes by −0.290 (expected −0.312); masked and renormalised: +0.281 (expected +3.5e−4) · p 0.410 → 0.0052 · rank 1 → 2");
    const row = { zero: 0, estimate: 0, knock_out: null, knock_out_estimate: null, p: null, rank: null };
    expect(verdict(block("verified", row, {}), "the loss")).toBe("without it the loss changes by 0 (expected 0)");
  });
});

describe("asking for them", () => {
  const asked = (key: string): unknown => {
    let sent: unknown;
    const source = kernelSource({ send: (content) => { sent = content; }, onMessage: () => undefined }, { schedule: (flush) => { flush(); } });
    source.get(key).catch(() => undefined);
    return (sent as { requests: unknown[] }).requests[0];
  };

  it("heads are named with a star for all", () => {
    const named = [{ layer: 5, head: 3 }, { layer: 5, head: null }, { layer: null, head: null }, { layer: 5, head: 3, heads: [[1, 0], [2, 3]] as const }].map(headsKey);
    expect(named).toEqual(["5.3", "5.*", "*.*", "1.0,2.3"]);
  });

  it("keys become requests", () => {
    expect(asked("effects/decoder/1.0,2.3")).toMatchObject({ want: "effects", part: "decoder", heads: [[1, 0], [2, 3]], query: null, key: null });
    expect(asked("effects/a/b/*.*")).toMatchObject({ want: "effects", part: "a/b", heads: [[null, null]] });
    expect(asked("verified/decoder/1.*/12/*")).toMatchObject({ want: "verified", part: "decoder", heads: [[1, null]], query: 12, key: null });
    expect(asked("verified/decoder/1.0/0/3")).toMatchObject({ heads: [[1, 0]], query: 0, key: 3 });
  });

  it("a page without a kernel says what to do", async () => {
    const page = bundleSource(block("bundle", {}, {}));
    await expect(page.get("effects/decoder/1.0")).rejects.toThrow("export with it chosen and effects=True");
    await expect(page.get("verified/decoder/1.0/1/*")).rejects.toThrow("Verifying runs the model: open the notebook.");
  });
});

describe("on screen", () => {
  const map = weightMap(weights([[1, "masked", "masked"], [0.6, 0.4, "masked"], [0.2, 0.3, 0.5]]));
  const meta = bundleMeta(block("bundle", { ...bundleMetaOf(), objective: { words: WORDS, value: 4.2 } }, {}));
  const line = (): Promise<Float32Array> => Promise.reject(new Error("this map is whole"));
  const begin = async (get: (key: string) => Promise<Block>, fields = {}, about = meta): Promise<State> => {
    const state = new State({ part: "decoder", layer: 0, head: 1, ...fields });
    follow(state, { meta: about, get, map: () => Promise.resolve(map), row: line, column: line }, new AbortController().signal);
    await vi.waitFor(() => { expect(state.get("map").status).toBe("ready"); });
    return state;
  };
  const at = (state: State): Shown => state.get("map") as MapState & { status: "ready" };

  it("they come where they are wanted, once more for another head, and go", async () => {
    const get = vi.fn(() => Promise.resolve(sent));
    const state = await begin(get);
    expect(get).not.toHaveBeenCalled();
    expect(effectsIn(at(state))).toBeNull();
    state.set({ effects: true });
    await vi.waitFor(() => { expect(effectsIn(at(state))?.words).toBe(WORDS); });
    state.set({ layer: 1, head: null });
    await vi.waitFor(() => { expect(get.mock.calls.map(([key]: unknown[]) => key)).toEqual(["effects/decoder/0.1", "effects/decoder/1.*"]); });
    state.set({ effects: false });
    await vi.waitFor(() => { expect(effectsIn(at(state))).toBeNull(); });
  });

  it("without an objective nobody asks", async () => {
    const get = vi.fn(() => Promise.resolve(sent));
    await begin(get, { effects: true }, { ...meta, objective: null });
    expect(get).not.toHaveBeenCalled();
  });

  it("where they cannot be had the weights stay, with the reason", async () => {
    const state = await begin(() => Promise.reject(new Error("not stored")), { effects: true });
    expect(at(state)).toMatchObject({ effects: "not stored" });
    expect(effectsIn(at(state))).toBeNull();
    expect(at(state).map).toBe(map);
  });

  it("a focus has what its edges do, of several queries their sum", async () => {
    const state = await begin(() => Promise.resolve(sent), { effects: true, pinned: [0, 1] });
    const focus = focusOf({ state, signal: new AbortController().signal });
    expect(Array.from(focus.current.effects?.key ?? [])).toEqual([-0.5, 0.25, MASKED]);
    state.set({ hover: { query: null, key: 0 } });
    expect(Array.from(focus.current.effects?.query ?? [])).toEqual([0.5, -1, 0]);
  });

  it("edges have the colour and the dash of what they do, and are grey where that is nothing", async () => {
    const shown = at(await begin(() => Promise.resolve(sent), { effects: true }));
    const strands = new Strands(shown, true, 1);
    const of = (query: number, key: number): ReturnType<typeof strands.stroke> => strands.stroke(PALETTES.light, { query, key, strand: 0, weight: 0.5 });
    expect(of(1, 0)).toEqual({ colour: signedColourAt(PALETTES.light, 0.5 - 0.46), dash: [6, 4] });
    expect(of(0, 0)).toEqual({ colour: signedColourAt(PALETTES.light, 0.5 + 0.12 + 0.34 * Math.sqrt(0.5)) });
    expect(of(2, 0)).toEqual({ colour: PALETTES.light.soft });
  });
});

it("the table sorts by them, and copies them", () => {
  const edge = (query: number, key: number, effect?: number) => ({ query, key, weight: 0.5, rank: 1, of: 2, ...(effect === undefined ? {} : { effect }) });
  const edges = [edge(0, 0, -0.3), edge(1, 0, 1.25), edge(1, 1, 0)];
  expect(sorted(edges, "effect", true).map(({ effect }) => effect)).toEqual([1.25, 0, -0.3]);
  expect(sorted(edges, "effect", false).map(({ effect }) => effect)).toEqual([-0.3, 0, 1.25]);
  const { axes: [axis] } = bundleMeta(block("bundle", bundleMetaOf(), {}));
  const lines = csv(edges.slice(0, 2), { queries: axis, keys: axis }).split("\r\n");
  expect(lines.slice(0, 2)).toEqual(["query,query_token,key,key_token,weight,rank,effect", '0,"token 0",0,"token 0",0.5,1,-0.3']);
  expect(csv([edge(0, 0)], { queries: axis, keys: axis })).not.toContain("effect");
});
