import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { WeightMap } from "../src/math.ts";
import { MASKED, weightMap } from "../src/math.ts";
import type { Model, Selection } from "../src/state.ts";
import { connect, focusedQuery, follow, momentOf, placeOf, settle, shown, State, storedModel, tokenOf } from "../src/state.ts";
import type { Block } from "../src/wire.ts";
import { bundleMeta } from "../src/wire.ts";
import { block, bundleMetaOf, weights } from "./fixtures.ts";

const forever = new AbortController().signal;

class Counter {
  calls = 0;
  readonly count = (): void => {
    this.calls++;
  };
}
const counter = (): Counter => new Counter();

/** What Jupyter hands over: values with change events, fired also for what this side sets. */
class Notebook implements Model {
  readonly listeners = new Map<string, Set<(content: unknown, buffers: unknown) => void>>();
  readonly sent: unknown[] = [];
  saves = 0;

  constructor(readonly values: Record<string, unknown> = {}) {}

  get(name: string): unknown {
    return this.values[name];
  }

  set(name: string, value: unknown): void {
    this.values[name] = value;
    this.fire(`change:${name}`);
  }

  on(event: string, callback: (content: unknown, buffers: unknown) => void): void {
    this.listeners.set(event, (this.listeners.get(event) ?? new Set()).add(callback));
  }

  off(event: string, callback: (content: unknown, buffers: unknown) => void): void {
    this.listeners.get(event)?.delete(callback);
  }

  save_changes(): void {
    this.saves++;
  }

  send(content: unknown): void {
    this.sent.push(content);
  }

  fire(event: string, content?: unknown, buffers?: unknown): void {
    for (const listener of this.listeners.get(event) ?? []) listener(content, buffers);
  }

  get listening(): number {
    return [...this.listeners.values()].reduce((count, set) => count + set.size, 0);
  }
}

describe("the state", () => {
  it("calls each listener once for a change of several fields", () => {
    const state = new State({ layer: 1, head: 2 });
    const both = counter();
    const scale = counter();
    state.on(["layer", "head"], both.count, forever);
    state.on("scale", scale.count, forever);
    state.set({ layer: 3, head: 4 });
    expect([both.calls, scale.calls, state.get("layer"), state.get("head")]).toEqual([1, 0, 3, 4]);
  });

  it("calls nobody when nothing changes", () => {
    const state = new State({ pinned: [1, 2], hover: { query: 1, key: null } });
    const heard = counter();
    state.on(["pinned", "hover", "layer"], heard.count, forever);
    state.set({ pinned: [1, 2], hover: { query: 1, key: null }, layer: null });
    expect(heard.calls).toBe(0);
    state.set({ pinned: [2, 1] });
    state.set({ hover: { query: 1, key: 0 } });
    state.set({ hover: null });
    expect(heard.calls).toBe(3);
  });

  it("has set everything before it calls anybody", () => {
    const state = new State();
    const seen: unknown[] = [];
    state.on("layer", () => seen.push(state.get("head")), forever);
    state.set({ layer: 1, head: 7 });
    expect(seen).toEqual([7]);
  });

  it("forgets listeners whose signal aborts, also in the middle of a round", () => {
    const state = new State();
    const [first, second] = [new AbortController(), new AbortController()];
    const late = counter();
    state.on("layer", () => second.abort(), first.signal);
    state.on("layer", late.count, second.signal);
    state.on("layer", late.count, AbortSignal.abort());
    state.set({ layer: 1 });
    first.abort();
    state.set({ layer: 2 });
    expect(late.calls).toBe(0);
  });

  it("lets the others hear when one listener fails", () => {
    const state = new State();
    const heard = counter();
    state.on("layer", () => { throw new Error("a view broke"); }, forever);
    state.on("layer", heard.count, forever);
    expect(() => state.set({ layer: 1 })).toThrow("a view broke");
    expect(heard.calls).toBe(1);
  });

  it("has the query under the pointer in focus, else the one set from Python", () => {
    const state = new State({ query: 3 });
    expect(focusedQuery(state)).toBe(3);
    state.set({ hover: { query: 5, key: null } });
    expect(focusedQuery(state)).toBe(5);
    state.set({ hover: { query: null, key: 2 } });
    expect(focusedQuery(state)).toBeNull();
  });
});

describe("a step of generation", () => {
  // Two tokens of prompt, two generated, one that was put in, one generated.
  const axis = { ...bundleMeta(block("bundle", bundleMetaOf(1, 1, 6), {})).axes[0], generated: [2, 3, 5] };

  it.each([
    [1, { step: 1, token: 2, query: 1 }],
    [2, { step: 2, token: 3, query: 2 }],
    [3, { step: 3, token: 5, query: 4 }],
    [4, null],
    [null, null],
  ])("%s is the making of the generated token of that number, at the query before it", (step, moment) => {
    expect(momentOf(new State({ step }), axis)).toEqual(moment);
  });

  it("of a token with nothing before it is made at no query, and there is none without generated tokens", () => {
    expect(momentOf(new State({ step: 1 }), { ...axis, generated: [0, 1] })).toEqual({ step: 1, token: 0, query: null });
    expect(momentOf(new State({ step: 1 }), { ...axis, generated: [] })).toBeNull();
  });

  it("has in focus where the token is made, unless the pointer is on a token that was there", () => {
    const state = new State({ step: 2, query: 0 });
    const moment = momentOf(state, axis);
    const at = (query: number | null, key: number | null): number | null => {
      state.set({ hover: { query, key } });
      return focusedQuery(state, moment);
    };
    expect(focusedQuery(state, moment)).toBe(2);
    expect([at(1, null), at(2, null), at(3, null), at(5, null), at(null, 1), at(null, null)]).toEqual([1, 2, 2, 2, null, 2]);
  });
});

describe("a connection to Python", () => {
  it("starts from the traits", () => {
    const { state } = connect(new Notebook({ part: "decoder", layer: 3, head: null, pinned: [1], view: "heatmap", threshold: 0.5, theme: "dark" }), forever);
    expect([state.get("part"), state.get("layer"), state.get("head"), state.get("pinned"), state.get("view"), state.get("threshold"), state.get("theme")]).toEqual([
      "decoder", 3, null, [1], "heatmap", 0.5, "dark",
    ]);
    expect([state.get("scale"), state.get("reduce"), state.get("query")]).toEqual(["sqrt", "mean", null]);
  });

  it("carries a change to Python, saved once", () => {
    const model = new Notebook({ layer: 0, head: 0 });
    const { state } = connect(model, forever);
    state.set({ layer: 4, head: 5 });
    expect([model.values["layer"], model.values["head"], model.saves]).toEqual([4, 5, 1]);
  });

  it("saves nothing when Python knows it already, or must not know it", () => {
    const model = new Notebook({ layer: 0, pinned: [1, 2] });
    const { state } = connect(model, forever);
    state.set({ layer: 0, pinned: [1, 2] });
    state.set({ map: { status: "error", message: "no", previous: null } });
    expect([model.saves, "map" in model.values, "hover" in model.values]).toEqual([0, false, false]);
  });

  it("holds back what is not committed, and carries it when it is", () => {
    const model = new Notebook({ threshold: 0.9 });
    const { state } = connect(model, forever);
    state.set({ threshold: 0.7 }, { commit: false });
    state.set({ threshold: 0.5 }, { commit: false });
    expect([model.values["threshold"], model.saves]).toEqual([0.9, 0]);
    state.set({ threshold: 0.5 });
    expect([model.values["threshold"], model.saves]).toEqual([0.5, 1]);
  });

  it("hears what Python sets, and does not send it back", () => {
    const model = new Notebook({ layer: 0, query: null });
    const { state } = connect(model, forever);
    const heard = counter();
    state.on("query", heard.count, forever);
    model.set("query", 4);
    expect([state.get("query"), heard.calls, model.saves]).toEqual([4, 1, 0]);
  });

  it("keeps two views of one widget in step", () => {
    const model = new Notebook({ layer: 0 });
    const [a, b] = [connect(model, forever), connect(model, forever)];
    a.state.set({ layer: 2 });
    expect(b.state.get("layer")).toBe(2);
    expect(model.saves).toBe(1);
  });

  it.each([
    ["layer", "five", null],
    ["layer", 1.5, null],
    ["reduce", "sum", "mean"],
    ["view", "pie", "arcs"],
    ["threshold", 0, 0.9],
    ["threshold", NaN, 0.9],
    ["threshold", "0.5", 0.9],
    ["query", -1, null],
    ["pinned", "all", []],
    ["pinned", [1, -1, "x", 2], [1, 2]],
    ["theme", undefined, "auto"],
    ["part", 3, ""],
    ["sample", -1, 0],
    ["sample", null, 0],
    ["step", 0, null],
    ["step", 1.5, null],
  ] as const)("does not take %s from %j", (name, value, kept) => {
    expect(connect(new Notebook({ [name]: value }), forever).state.get(name)).toEqual(kept);
  });

  it("ends with its signal", () => {
    const model = new Notebook({ layer: 0 });
    const controller = new AbortController();
    const { state, transport, onBundle } = connect(model, controller.signal);
    transport?.onMessage(() => undefined, controller.signal);
    onBundle(() => undefined, controller.signal);
    expect(model.listening).toBeGreaterThan(10);
    controller.abort();
    expect(model.listening).toBe(0);
    state.set({ layer: 9 });
    expect([model.values["layer"], model.saves]).toEqual([0, 0]);
  });

  it("passes messages on, with their bytes", () => {
    const model = new Notebook();
    const { transport } = connect(model, forever);
    const heard: unknown[] = [];
    transport?.onMessage((content, buffers) => heard.push([content, buffers]), forever);
    const bytes = new DataView(new ArrayBuffer(2));
    model.fire("msg:custom", { type: "block" }, [bytes, "no bytes"]);
    model.fire("msg:custom", { type: "error" });
    expect(heard).toEqual([
      [{ type: "block" }, [bytes]],
      [{ type: "error" }, []],
    ]);
    transport?.send({ type: "get" });
    expect(model.sent).toEqual([{ type: "get" }]);
  });

  it("tells when there is a new bundle", () => {
    const model = new Notebook({ _bundle: "old" });
    const { bundle, onBundle } = connect(model, forever);
    const heard = counter();
    onBundle(heard.count, forever);
    expect(bundle()).toBe("old");
    model.set("_bundle", "new");
    expect([heard.calls, bundle()]).toEqual([1, "new"]);
  });
});

describe("a static host", () => {
  it("whose off, send and save_changes throw still shows and changes", () => {
    const model = new Notebook({ part: "decoder", layer: 1 });
    const refuse = (): never => {
      throw new Error("not supported in this host");
    };
    const controller = new AbortController();
    const { state, transport } = connect(Object.assign(model, { off: refuse, send: refuse, save_changes: refuse }), controller.signal);
    state.set({ layer: 2 });
    expect(state.get("layer")).toBe(2);
    expect(() => transport?.send({})).toThrow("not supported");
    controller.abort();
  });

  it("that offers nothing but get does too, and has no kernel", () => {
    const { state, transport } = connect({ get: (name) => (name === "layer" ? 1 : undefined) }, forever);
    state.set({ layer: 2 });
    expect([state.get("layer"), transport]).toEqual([2, null]);
  });

  it("whose get throws shows the defaults", () => {
    const get = (): never => {
      throw new Error("unknown name");
    };
    expect(connect({ get }, forever).state.get("threshold")).toBe(0.9);
  });
});

describe("an exported page", () => {
  it("holds traits and a bundle", () => {
    const model = storedModel(JSON.stringify({ state: { part: "decoder", layer: 2, theme: "dark" }, bundle: "QVRUTg==" }));
    const { state, bundle, transport } = connect(model, forever);
    expect([state.get("layer"), state.get("theme"), bundle(), transport]).toEqual([2, "dark", "QVRUTg==", null]);
    state.set({ layer: 0 });
    expect(model.get("layer")).toBe(0);
  });

  it.each(["", "{", "[]", "null", '{"state": {}}', '{"state": [], "bundle": ""}', '{"state": {}, "bundle": 3}'])("that holds %j instead is damaged, in words", (text) => {
    expect(() => storedModel(text)).toThrow("The data of this picture are damaged");
  });
});

describe("the pointer", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("is heard by Python where it rests, once", () => {
    const model = new Notebook({ query: null });
    const { state } = connect(model, forever);
    for (let i = 0; i < 5; i++) {
      state.set({ hover: { query: i, key: null } });
      vi.advanceTimersByTime(100);
    }
    expect([model.values["query"], model.saves]).toEqual([null, 0]);
    vi.advanceTimersByTime(50);
    expect([model.values["query"], model.saves]).toEqual([4, 1]);
    vi.advanceTimersByTime(1000);
    expect(model.saves).toBe(1);
  });

  it("that leaves takes the query with it, after a rest", () => {
    const model = new Notebook({ query: null });
    const { state } = connect(model, forever);
    state.set({ hover: { query: 2, key: null } });
    vi.advanceTimersByTime(200);
    state.set({ hover: null });
    expect(state.get("query")).toBe(2);
    vi.advanceTimersByTime(150);
    expect([model.values["query"], model.saves]).toEqual([null, 2]);
  });

  it("does not disturb a query that Python set, until it moves", () => {
    const model = new Notebook({ query: null });
    const { state } = connect(model, forever);
    model.set("query", 6);
    vi.advanceTimersByTime(1000);
    expect(focusedQuery(state)).toBe(6);
    state.set({ hover: { query: 1, key: null } });
    expect(focusedQuery(state)).toBe(1);
  });

  it("is not heard after the end", () => {
    const controller = new AbortController();
    const state = new State();
    settle(state, controller.signal);
    state.set({ hover: { query: 2, key: null } });
    controller.abort();
    vi.advanceTimersByTime(1000);
    expect(state.get("query")).toBeNull();
  });
});

describe("the map that is shown", () => {
  const meta = bundleMeta(block("bundle", bundleMetaOf(3, 2), {}));
  const map = (): WeightMap => weightMap(weights([[1, 0, 0], [1, 0, 0], [1, 0, 0]]));

  /** Serves maps when told to. */
  class Slow {
    readonly meta = meta;
    readonly asked: { selection: Selection; signal: AbortSignal | undefined; land: (map: WeightMap) => void; fail: (error: Error) => void }[] = [];

    row(): Promise<Float32Array> {
      return Promise.reject(new Error("these maps are whole"));
    }

    column(): Promise<Float32Array> {
      return this.row();
    }

    get(): Promise<Block> {
      return Promise.reject(new Error("nobody asks for effects here"));
    }

    map(selection: Selection, signal?: AbortSignal): Promise<WeightMap> {
      return new Promise((land, fail) => {
        signal?.addEventListener("abort", () => fail(signal.reason as Error));
        this.asked.push({ selection, signal, land, fail });
      });
    }
  }

  const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));
  const begin = async (fields = {}): Promise<{ state: State; tiles: Slow; end: AbortController }> => {
    const [state, tiles, end] = [new State({ part: "decoder", layer: 0, head: 0, ...fields }), new Slow(), new AbortController()];
    follow(state, tiles, end.signal);
    await turn();
    return { state, tiles, end };
  };

  it("is loaded at once, and says that it is loading", async () => {
    const { state, tiles } = await begin();
    expect(state.get("map")).toMatchObject({ status: "loading", previous: null });
    expect(tiles.asked[0].selection).toEqual({ part: "decoder", layer: 0, head: 0, reduce: "mean" });
    const loaded = map();
    tiles.asked[0].land(loaded);
    await turn();
    expect(state.get("map")).toMatchObject({ status: "ready", selection: { part: "decoder", layer: 0, head: 0, reduce: "mean" }, groups: { queries: null, keys: null } });
    expect(shown(state)?.map).toBe(loaded);
    expect(shown(state)?.axes.queries).toBe(meta.axes[0]);
  });

  it("stays while the next one loads", async () => {
    const { state, tiles } = await begin();
    const loaded = map();
    tiles.asked[0].land(loaded);
    await turn();
    state.set({ layer: 1, head: null });
    await turn();
    expect(state.get("map").status).toBe("loading");
    expect(shown(state)).toMatchObject({ map: loaded, selection: { layer: 0, head: 0 } });
  });

  it("is asked for once when layer and head change one after the other", async () => {
    const { state, tiles } = await begin();
    state.set({ layer: 2 });
    state.set({ head: 1 });
    await turn();
    expect(tiles.asked.map(({ selection }) => [selection.layer, selection.head])).toEqual([[0, 0], [2, 1]]);
  });

  it("is the last one chosen, however late the others come", async () => {
    const { state, tiles } = await begin();
    state.set({ layer: 1 });
    await turn();
    state.set({ layer: 2 });
    await turn();
    expect(tiles.asked.map(({ signal }) => signal?.aborted)).toEqual([true, true, false]);
    const last = map();
    tiles.asked[2].land(last);
    tiles.asked[1].land(map());
    await turn();
    expect(shown(state)?.map).toBe(last);
  });

  it("does not load again for a reduction that changes nothing", async () => {
    const { state, tiles } = await begin();
    state.set({ reduce: "max" });
    await turn();
    expect(tiles.asked).toHaveLength(1);
    state.set({ head: null });
    await turn();
    expect(tiles.asked[1].selection.reduce).toBe("max");
  });

  it("stays when the next one cannot be had, and the words say why", async () => {
    const { state, tiles } = await begin();
    const loaded = map();
    tiles.asked[0].land(loaded);
    await turn();
    state.set({ layer: 1 });
    await turn();
    tiles.asked[1].fail(new Error("This head is not stored in this page."));
    await turn();
    expect(state.get("map")).toMatchObject({ status: "error", message: "This head is not stored in this page.", previous: { status: "ready" } });
    expect(shown(state)?.map).toBe(loaded);
    state.set({ layer: 2 });
    await turn();
    state.set({ layer: 1 });
    await turn();
    expect(tiles.asked).toHaveLength(4);
  });

  it.each([
    [{ layer: 3 }, "There is no layer 3: decoder has layers 0 to 2."],
    [{ layer: -1 }, "There is no layer -1: decoder has layers 0 to 2."],
    [{ head: 2 }, "There is no head 2: layer 0 of decoder has heads 0 to 1."],
    [{ layer: null, head: 5 }, "There is no head 5: decoder has heads 0 to 1."],
    [{ part: "encoder" }, "There is no part named “encoder”. There is: decoder."],
  ])("stays when Python selects %j, which does not exist", async (selection, words) => {
    const { state, tiles } = await begin();
    tiles.asked[0].land(map());
    await turn();
    state.set(selection);
    await turn();
    expect(state.get("map")).toMatchObject({ status: "error", message: words });
    expect(shown(state)).not.toBeNull();
    expect(tiles.asked).toHaveLength(1);
  });

  it("of a layer without attention is not asked for: the words say why there is none", async () => {
    const { parts: [part] } = meta;
    const layers = part.layers.map((layer, l) => (l === 1 ? { ...layer, heads: 0, absent: "MambaMixer: no attention" } : layer));
    const tiles = Object.assign(new Slow(), { meta: { ...meta, parts: [{ ...part, layers }] } });
    const state = new State({ part: "decoder", layer: 1, head: null });
    follow(state, tiles, forever);
    await turn();
    expect(state.get("map")).toMatchObject({ status: "error", message: "Layer 1 of decoder has no weights to show (MambaMixer: no attention)." });
    expect(tiles.asked).toEqual([]);
  });

  /** The cells of a row of the map that is shown. */
  const cells = (state: State, i: number): number[] => [...(shown(state)?.map.row(i) ?? [])];

  it("of several heads is their mean, largest or smallest, and keeps the few apart", async () => {
    const { state, tiles } = await begin({ heads: [[0, 1], [2, 0]] });
    expect(tiles.asked.map(({ selection }) => [selection.layer, selection.head])).toEqual([[0, 1], [2, 0]]);
    tiles.asked[0].land(weightMap(weights([[1, "masked", 0], [0.25, 0.75, 0], [1, 0, 0]])));
    tiles.asked[1].land(weightMap(weights([[1, "masked", 0], [0.75, 0.25, 0], [1, 0, 0]])));
    await turn();
    expect(cells(state, 1)).toEqual([expect.closeTo(0.5, 4), expect.closeTo(0.5, 4), 0]);
    expect(cells(state, 0)).toEqual([1, MASKED, 0]);
    expect(shown(state)?.overlaid.map(({ head: at }) => at)).toEqual([[0, 1], [2, 0]]);
    expect(shown(state)?.selection.heads).toEqual([[0, 1], [2, 0]]);
  });

  it("of a head that does not exist, or of too many, is refused in words", async () => {
    const { state, tiles } = await begin({ heads: [[0, 1], [2, 7]] });
    expect(state.get("map")).toMatchObject({ status: "error", message: "There is no head 7: layer 2 of decoder has heads 0 to 1." });
    state.set({ heads: Array.from({ length: 65 }, () => [0, 0] as const) });
    await turn();
    expect(state.get("map")).toMatchObject({ status: "error", message: expect.stringContaining("65 heads are too many") as unknown });
    expect(tiles.asked).toEqual([]);
  });

  it("stands in words where that is asked for, and in tokens while one of them is being produced", async () => {
    const { state, tiles } = await begin({ group: "word" });
    Object.assign(meta.axes[0], { words: [-1, 0, 0], sentences: [-1, 0, 0] });
    state.set({ expanded: [99] });
    await turn();
    tiles.asked[1].land(weightMap(weights([[1, "masked", "masked"], [0.5, 0.5, "masked"], [0.25, 0.25, 0.5]])));
    await turn();
    expect(shown(state)?.axes.queries.labels).toEqual(["token 0", "token 1token 2"]);
    expect([cells(state, 0), cells(state, 1)]).toEqual([[1, MASKED], [expect.closeTo(0.375, 4), expect.closeTo(0.625, 4)]]);
    expect([placeOf(state, 2), tokenOf(state, 1)]).toEqual([1, 1]);
    state.set({ step: 1 }); // left over from a part in which something was generated
    await turn();
    expect(tiles.asked).toHaveLength(2);
    Object.assign(meta.axes[0], { generated: [1] });
    state.set({ step: null });
    state.set({ step: 1 });
    await turn();
    expect(tiles.asked).toHaveLength(3);
    Object.assign(meta.axes[0], { words: null, sentences: null, generated: [] });
  });

  it("has its words put together again in another part or other groups", async () => {
    const { state } = await begin();
    for (const patch of [{ group: "word" }, { part: "encoder" }] as const) {
      state.set({ expanded: [1] });
      state.set(patch);
      expect(state.get("expanded")).toEqual([]);
    }
  });

  it("that has other tokens than those there are is refused", async () => {
    const { state, tiles } = await begin();
    tiles.asked[0].land(weightMap(weights([[1]])));
    await turn();
    expect(state.get("map")).toMatchObject({ status: "error", message: "The data are damaged: 1 × 1 weights are not those of these tokens." });
  });

  it("is the first side less the second, or either of them", async () => {
    const [tiles, other] = [new Slow(), new Slow()];
    const state = new State({ part: "decoder", layer: 0, head: 0 });
    follow(state, Object.assign(tiles, { other }), forever);
    await turn();
    const rows = (a: number, b: number): WeightMap => weightMap(weights([[a, b, 0], [a, b, 0], [a, b, 0]]));
    tiles.asked[0].land(rows(0.75, 0.25));
    other.asked[0].land(rows(0.5, 0.5));
    await turn();
    expect(cells(state, 0)).toEqual([expect.closeTo(0.25, 4), expect.closeTo(-0.25, 4), 0]);
    expect(shown(state)?.map.signed).toBe(true);
    state.set({ side: "b" });
    await turn();
    expect([tiles.asked.length, other.asked.length]).toEqual([1, 2]);
    other.asked[1].land(rows(0.5, 0.5));
    await turn();
    expect([cells(state, 0)[1], shown(state)?.map.signed]).toEqual([expect.closeTo(0.5, 4), false]);
  });

  it("is of the first part where none is chosen", async () => {
    const { state } = await begin({ part: "" });
    expect(state.get("part")).toBe("decoder");
  });

  it("is given up with the widget", async () => {
    const { state, tiles, end } = await begin();
    end.abort();
    expect(tiles.asked[0].signal?.aborted).toBe(true);
    state.set({ layer: 1 });
    await turn();
    expect(state.get("map").status).toBe("loading");
    expect(tiles.asked).toHaveLength(1);
  });
});
