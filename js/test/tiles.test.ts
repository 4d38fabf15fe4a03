import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { TileSource, Transport } from "../src/tiles.ts";
import { bundleSource, cached, firstOf, kernelSource, MissingError, openTiles } from "../src/tiles.ts";
import type { Block, Bytes, Question, Request } from "../src/wire.ts";
import { MASKED, unpack } from "../src/wire.ts";
import type { Spec } from "./fixtures.ts";
import { block, bundleMetaOf, f32, head, pack, u8, weights } from "./fixtures.ts";

/** A kernel on a leash: it keeps what it hears, and says what the test tells it to. */
class Kernel implements Transport {
  readonly heard: Question[] = [];
  readonly #listeners = new Set<(content: unknown, buffers: readonly Bytes[]) => void>();
  broken = false;

  send(content: unknown): void {
    if (this.broken) throw new Error("there is no comm");
    this.heard.push(structuredClone(content) as Question);
  }

  onMessage(listener: (content: unknown, buffers: readonly Bytes[]) => void, signal: AbortSignal): void {
    this.#listeners.add(listener);
    signal.addEventListener("abort", () => this.#listeners.delete(listener));
  }

  say(content: unknown, ...buffers: Bytes[]): void {
    for (const listener of this.#listeners) listener(content, buffers);
  }

  get requests(): Request[] {
    return this.heard.flatMap((question) => (question.type === "get" ? question.requests : []));
  }

  get listening(): number {
    return this.#listeners.size;
  }

  /** Answers request `n` in `chunks` pieces, sent in the given order. */
  answer(n: number, bytes: Uint8Array<ArrayBuffer>, order = [0]): void {
    const { id } = this.requests[n];
    const size = Math.ceil(bytes.length / order.length);
    for (const chunk of order) {
      this.say({ type: "block", id, chunk, chunks: order.length }, new DataView(bytes.slice(chunk * size, (chunk + 1) * size).buffer));
    }
  }
}

const packed = (title: string): Uint8Array<ArrayBuffer> => pack("weights", { title }, { hi: u8([4], [1, 2, 3, 4]) }, { compress: true });
const title = (answer: Block): unknown => answer.meta["title"];
const tick = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));

let frames: (() => void)[] = [];
const schedule = (flush: () => void): void => void frames.push(flush);
const frame = (): void => frames.splice(0).forEach((flush) => flush());

beforeEach(() => {
  frames = [];
});

describe("the kernel", () => {
  it("is asked once a frame, whatever was asked for in it", async () => {
    const kernel = new Kernel();
    const source = kernelSource(kernel, { schedule });
    const answers = [source.get("map/decoder/1/2"), source.get("map/decoder/*/2/max"), source.get("row/decoder/1/*/mean/7"), source.get("column/decoder/1/2/0")];
    expect(kernel.heard).toEqual([]);
    frame();
    expect(kernel.heard).toHaveLength(1);
    const [a, b, c, d] = kernel.requests;
    expect(a).toEqual({ id: a.id, want: "map", part: "decoder", layer: 1, head: 2, reduce: "mean", index: null, exact: false, sample: 0 });
    expect(b).toMatchObject({ want: "map", layer: null, head: 2, reduce: "max" });
    expect(c).toMatchObject({ want: "row", layer: 1, head: null, reduce: "mean", index: 7 });
    expect(d).toMatchObject({ want: "column", layer: 1, head: 2, index: 0 });
    expect(new Set(kernel.requests.map(({ id }) => id)).size).toBe(4);

    [3, 0, 2, 1].forEach((n) => kernel.answer(n, packed(`answer ${n}`)));
    expect((await Promise.all(answers)).map(title)).toEqual(["answer 0", "answer 1", "answer 2", "answer 3"]);

    void source.get("map/decoder/0/0").catch(() => undefined);
    frame();
    expect(kernel.heard).toHaveLength(2);
    expect(kernel.requests).toHaveLength(5);
  });

  it("is asked on the next animation frame, or soon where there are none", async () => {
    const kernel = new Kernel();
    void kernelSource(kernel).get("map/decoder/0/0").catch(() => undefined);
    await tick();
    expect(kernel.heard).toHaveLength(1);

    vi.useFakeTimers();
    let paint = (): void => undefined;
    vi.stubGlobal("requestAnimationFrame", (callback: () => void) => (paint = callback));
    void kernelSource(kernel).get("map/decoder/0/0").catch(() => undefined);
    paint();
    expect(kernel.heard).toHaveLength(2);
    vi.advanceTimersByTime(200);
    expect(kernel.heard).toHaveLength(2);
    void kernelSource(kernel).get("map/decoder/0/0").catch(() => undefined);
    vi.advanceTimersByTime(200); // a hidden tab paints nothing
    expect(kernel.heard).toHaveLength(3);
  });

  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it("asks for exact numbers where that is wanted", () => {
    const kernel = new Kernel();
    void kernelSource(kernel, { schedule, exact: true }).get("map/decoder/0/0").catch(() => undefined);
    frame();
    expect(kernel.requests[0].exact).toBe(true);
  });

  it.each([[[0, 1, 2, 3, 4]], [[4, 3, 2, 1, 0]], [[2, 0, 4, 1, 3]]])("may answer in pieces, in the order %j", async (order) => {
    const kernel = new Kernel();
    const answer = kernelSource(kernel, { schedule }).get("map/decoder/0/0");
    frame();
    kernel.answer(0, packed("in pieces"), order);
    expect(title(await answer)).toBe("in pieces");
  });

  it("refuses in its own words", async () => {
    const kernel = new Kernel();
    const source = kernelSource(kernel, { schedule });
    const answer = source.get("map/decoder/0/99");
    frame();
    kernel.say({ type: "error", id: kernel.requests[0].id, message: "There is no head 99." });
    await expect(answer).rejects.toThrow("There is no head 99.");
  });

  it("may send bytes that are no block, which is said in words", async () => {
    const kernel = new Kernel();
    const answer = kernelSource(kernel, { schedule }).get("map/decoder/0/0");
    frame();
    kernel.answer(0, packed("cut").slice(0, 40));
    await expect(answer).rejects.toThrow("truncated");
  });

  it.each([
    ["without its bytes", [{ chunk: 0, chunks: 2, buffers: 0 }]],
    ["with a piece that comes twice", [{ chunk: 0, chunks: 2, buffers: 1 }, { chunk: 0, chunks: 2, buffers: 1 }]],
    ["with a piece beyond the last", [{ chunk: 2, chunks: 2, buffers: 1 }]],
  ])("may send an answer %s, which ends the wait", async (_, messages) => {
    const kernel = new Kernel();
    const source = kernelSource(kernel, { schedule });
    const answer = source.get("map/decoder/0/0");
    frame();
    const { id } = kernel.requests[0];
    for (const { buffers, ...message } of messages) kernel.say({ type: "block", id, ...message }, ...Array<Bytes>(buffers).fill(new Uint8Array(8)));
    await expect(answer).rejects.toThrow(/damaged|does not understand/);
  });

  it("is not asked for what was given up before the frame", async () => {
    const kernel = new Kernel();
    const controller = new AbortController();
    const answer = kernelSource(kernel, { schedule }).get("map/decoder/0/0", { signal: controller.signal });
    controller.abort();
    await expect(answer).rejects.toMatchObject({ name: "AbortError" });
    frame();
    expect(kernel.heard).toEqual([]);
  });

  it("is told to stop, once a frame, and what it still says is dropped", async () => {
    const kernel = new Kernel();
    const source = kernelSource(kernel, { schedule });
    const controllers = [new AbortController(), new AbortController(), new AbortController()];
    const answers = controllers.map(({ signal }, i) => source.get(`map/decoder/0/${i}`, { signal }));
    frame();
    kernel.say({ type: "block", id: kernel.requests[0].id, chunk: 0, chunks: 2 }, packed("half").slice(0, 20));
    controllers[0].abort();
    controllers[2].abort();
    frame();
    const ids = kernel.requests.map(({ id }) => id);
    expect(kernel.heard[1]).toEqual({ type: "cancel", ids: [ids[0], ids[2]] });
    kernel.answer(0, packed("late"));
    kernel.answer(2, packed("late"));
    kernel.answer(1, packed("wanted"));
    await expect(answers[0]).rejects.toMatchObject({ name: "AbortError" });
    await expect(answers[2]).rejects.toMatchObject({ name: "AbortError" });
    expect(title(await answers[1])).toBe("wanted");
  });

  it("is not told to stop what it has answered", async () => {
    const kernel = new Kernel();
    const controller = new AbortController();
    const answer = kernelSource(kernel, { schedule }).get("map/decoder/0/0", { signal: controller.signal });
    frame();
    kernel.answer(0, packed("done"));
    await answer;
    controller.abort();
    frame();
    expect(kernel.heard).toHaveLength(1);
  });

  it("is not asked at all when nobody wants it any more", async () => {
    const kernel = new Kernel();
    const source = kernelSource(kernel, { schedule });
    await expect(source.get("map/decoder/0/0", { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: "AbortError" });
    frame();
    expect(kernel.heard).toEqual([]);
  });

  it("may be busy for an hour: nothing times out", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "performance"] });
    const kernel = new Kernel();
    const source = kernelSource(kernel, { schedule });
    const first = source.get("map/decoder/0/0");
    vi.advanceTimersByTime(60_000);
    const second = source.get("map/decoder/0/1");
    frame();
    vi.advanceTimersByTime(3_600_000);
    kernel.answer(0, packed("at last"));
    kernel.answer(1, packed("at last"));
    vi.useRealTimers();
    expect((await Promise.all([first, second])).map(title)).toEqual(["at last", "at last"]);
  });

  it("that is not there is said to be so", async () => {
    const kernel = new Kernel();
    kernel.broken = true;
    const source = kernelSource(kernel, { schedule });
    expect(source.live).toBe(true);
    const answers = [source.get("map/decoder/0/0"), source.get("map/decoder/0/1")];
    frame();
    for (const answer of answers) await expect(answer).rejects.toThrow("not stored here and there is no kernel to ask");
    expect(source.live).toBe(false);
  });

  it("that is gone answers nothing more: what was asked is said to be missing, and so is what is asked later", async () => {
    const ended = new AbortController();
    const kernel = Object.assign(new Kernel(), { gone: ended.signal });
    const source = kernelSource(kernel, { schedule });
    const asked = source.get("map/decoder/0/0");
    frame();
    ended.abort();
    await expect(asked).rejects.toBeInstanceOf(MissingError);
    expect(source.live).toBe(false);
    kernel.broken = true; // as the host's `send` is from then on
    const later = source.get("map/decoder/0/1");
    frame();
    await expect(later).rejects.toThrow("Run the cell again");
  });

  it("draws figures: of what format, how wide", async () => {
    const kernel = new Kernel();
    const source = kernelSource(kernel, { schedule });
    const asked = source.get('figure/svg/85.5/{"view":"arcs","part":"a/b"}');
    frame();
    expect(kernel.requests[0]).toMatchObject({ want: "figure", format: "svg", width: 85.5 });
    kernel.answer(0, pack("figure", { format: "svg" }, { file: u8([3], [60, 115, 47]) }));
    expect((await asked).arrays.get("file")?.data).toEqual(Uint8Array.of(60, 115, 47));
  });

  it("knows no thumbnails, and no keys it does not understand", async () => {
    const source = kernelSource(new Kernel(), { schedule });
    for (const key of ["thumbs/decoder", "map/decoder", "row/decoder/0/0", "row/decoder/0/0/x", "tile/decoder/0/0"]) await expect(source.get(key)).rejects.toBeInstanceOf(MissingError);
    frame();
  });

  it("serves two views of one widget without mixing them up", async () => {
    const kernel = new Kernel();
    const [a, b] = [kernelSource(kernel, { schedule }), kernelSource(kernel, { schedule })];
    const answers = [a.get("map/decoder/0/0"), b.get("map/decoder/0/0")];
    frame();
    kernel.answer(0, packed("for a"));
    kernel.answer(1, packed("for b"));
    expect((await Promise.all(answers)).map(title)).toEqual(["for a", "for b"]);
    expect(kernel.requests.every(({ id }) => Number.isSafeInteger(id))).toBe(true);
  });

  it("is left alone when the widget goes", async () => {
    const kernel = new Kernel();
    const controller = new AbortController();
    const source = kernelSource(kernel, { schedule, signal: controller.signal });
    const sent = source.get("map/decoder/0/0");
    frame();
    const unsent = source.get("map/decoder/0/1");
    controller.abort();
    await expect(sent).rejects.toMatchObject({ name: "AbortError" });
    await expect(unsent).rejects.toMatchObject({ name: "AbortError" });
    expect(kernel.heard).toHaveLength(2);
    expect(kernel.heard[1]).toEqual({ type: "cancel", ids: [kernel.requests[0].id] });
    expect(kernel.listening).toBe(0);
    await expect(source.get("map/decoder/0/0")).rejects.toMatchObject({ name: "AbortError" });
  });
});

describe("a bundle", () => {
  const nested = packed("stored");
  const bundle = block("bundle", {}, { "map/decoder/0/0": u8([nested.length], nested), odd: f32([1], [0]), rubbish: u8([3], [1, 2, 3]) });

  it("serves what it holds", async () => {
    const source = bundleSource(bundle);
    expect(source.has("map/decoder/0/0")).toBe(true);
    expect(title(await source.get("map/decoder/0/0"))).toBe("stored");
  });

  it.each([
    ["map/decoder/0/1", "This head is not stored in this page. A larger budget would include it."],
    ["map/decoder/0/*/mean", "This view over several heads is not stored in this page. A larger budget would include it."],
    ["row/decoder/0/*/mean/3", "This row or column is not stored in this page"],
    ["thumbs/decoder", "There are no thumbnails of this part in this page."],
  ])("that lacks %s says so", async (key, words) => {
    const source = bundleSource(bundle);
    expect(source.has(key)).toBe(false);
    const error: unknown = await source.get(key).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(MissingError);
    expect((error as Error).message).toContain(words);
  });

  it("that is damaged inside says so", async () => {
    await expect(bundleSource(bundle).get("odd")).rejects.toThrow("does not hold bytes");
    await expect(bundleSource(bundle).get("rubbish")).rejects.toThrow("not attnwidget data");
  });

  it("serves nobody who has left", async () => {
    await expect(bundleSource(bundle).get("map/decoder/0/0", { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: "AbortError" });
  });
});

describe("the first of several sources", () => {
  const source = (serve: (key: string) => Block): TileSource => ({ get: (key) => Promise.resolve().then(() => serve(key)) });
  const missing = source(() => {
    throw new MissingError("not here");
  });
  const found = source((key) => block(key, {}, {}));
  const broken = source(() => {
    throw new Error("broken");
  });

  it("that has a key serves it", async () => {
    expect((await firstOf(missing, broken, found).get("a")).kind).toBe("a");
  });

  it("is not followed by others", async () => {
    const asked = vi.fn(() => Promise.reject(new Error("asked")));
    await firstOf(found, { get: asked }).get("a");
    expect(asked).not.toHaveBeenCalled();
  });

  it("gives the words of the last when none has it", async () => {
    await expect(firstOf(broken, missing).get("a")).rejects.toThrow("not here");
    await expect(firstOf(missing, broken).get("a")).rejects.toThrow("broken");
  });

  it("is the last to be asked when the caller leaves", async () => {
    const controller = new AbortController();
    const leaving: TileSource = {
      get() {
        controller.abort();
        return Promise.reject(new Error("gone"));
      },
    };
    const next = vi.fn(() => Promise.resolve(block("a", {}, {})));
    await expect(firstOf(leaving, { get: next }).get("a", { signal: controller.signal })).rejects.toMatchObject({ name: "AbortError" });
    expect(next).not.toHaveBeenCalled();
  });
});

describe("a cache", () => {
  /** Serves blocks of 100 bytes when told to. */
  class Slow implements TileSource {
    readonly asked: { key: string; signal: AbortSignal | undefined; land: () => void; fail: (reason: Error) => void }[] = [];

    get(key: string, options?: { signal?: AbortSignal }): Promise<Block> {
      return new Promise((resolve, reject) => {
        options?.signal?.addEventListener("abort", () => reject(options.signal?.reason as Error));
        this.asked.push({ key, signal: options?.signal, land: () => resolve(block(key, {}, { bytes: u8([100], new Uint8Array(100)) })), fail: reject });
      });
    }

    get keys(): string[] {
      return this.asked.map(({ key }) => key);
    }
  }

  const load = async (cache: TileSource, slow: Slow, key: string): Promise<void> => {
    const before = slow.asked.length;
    const answer = cache.get(key);
    if (slow.asked.length > before) slow.asked[before].land();
    await answer;
    await tick();
  };

  it("asks once for what it is asked twice", async () => {
    const slow = new Slow();
    const cache = cached(slow, 1000);
    const both = Promise.all([cache.get("a"), cache.get("a", { signal: new AbortController().signal })]);
    expect(slow.keys).toEqual(["a"]);
    slow.asked[0].land();
    const [one, other] = await both;
    expect(one).toBe(other);
    expect(await cache.get("a")).toBe(one);
    expect(slow.keys).toEqual(["a"]);
  });

  it("gives up only when the last who asked has given up", async () => {
    const slow = new Slow();
    const cache = cached(slow, 1000);
    const [a, b] = [new AbortController(), new AbortController()];
    const first = cache.get("a", { signal: a.signal });
    const second = cache.get("a", { signal: b.signal });
    a.abort();
    await expect(first).rejects.toMatchObject({ name: "AbortError" });
    expect(slow.asked[0].signal?.aborted).toBe(false);
    b.abort();
    await expect(second).rejects.toMatchObject({ name: "AbortError" });
    expect(slow.asked[0].signal?.aborted).toBe(true);
    await load(cache, slow, "a");
    expect(slow.keys).toEqual(["a", "a"]);
  });

  it("does not give up for one who asked without a signal", async () => {
    const slow = new Slow();
    const cache = cached(slow, 1000);
    const controller = new AbortController();
    const patient = cache.get("a");
    const hasty = cache.get("a", { signal: controller.signal });
    controller.abort();
    await expect(hasty).rejects.toMatchObject({ name: "AbortError" });
    slow.asked[0].land();
    expect((await patient).kind).toBe("a");
  });

  it("drops what was used longest ago when it is full", async () => {
    const slow = new Slow();
    const cache = cached(slow, 300);
    for (const key of ["a", "b", "c"]) await load(cache, slow, key);
    await load(cache, slow, "a"); // used again
    await load(cache, slow, "d"); // b has to go
    expect(slow.keys).toEqual(["a", "b", "c", "d"]);
    for (const key of ["a", "c", "d"]) await load(cache, slow, key);
    expect(slow.keys).toEqual(["a", "b", "c", "d"]);
    await load(cache, slow, "b");
    expect(slow.keys).toEqual(["a", "b", "c", "d", "b"]);
  });

  it("keeps nothing that is larger than itself, and no errors", async () => {
    const slow = new Slow();
    const small = cached(slow, 99);
    await load(small, slow, "a");
    await load(small, slow, "a");
    expect(slow.keys).toEqual(["a", "a"]);

    const cache = cached(slow, 1000);
    const failing = cache.get("b");
    slow.asked[2].fail(new Error("busy"));
    await expect(failing).rejects.toThrow("busy");
    await load(cache, slow, "b");
    expect(slow.keys).toEqual(["a", "a", "b", "b"]);
  });

  it("serves nobody who has left", async () => {
    const slow = new Slow();
    await expect(cached(slow, 9).get("a", { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: "AbortError" });
    expect(slow.keys).toEqual([]);
  });
});

describe("tiles", () => {
  const bytesOfBlock = ({ kind, meta, arrays }: Block): Uint8Array<ArrayBuffer> => pack(kind, meta, Object.fromEntries(arrays), { compress: true });
  const bundleOf = (stored: Record<string, Block>): Uint8Array<ArrayBuffer> => {
    const nested: Record<string, Spec> = {};
    for (const [key, value] of Object.entries(stored)) {
      const bytes = bytesOfBlock(value);
      nested[key] = u8([bytes.length], bytes);
    }
    return pack("bundle", bundleMetaOf(), nested);
  };
  /** A bundle of three samples that shows the first; the third lies in it, the second does not. */
  const bundleOfThree = (at = 2): Uint8Array<ArrayBuffer> => {
    const samples = (sample: number): Record<string, unknown> => ({ samples: { count: 3, at: sample, noun: "text" } });
    const third = pack("bundle", { ...bundleMetaOf(), ...samples(at), title: "third" });
    return pack("bundle", { ...bundleMetaOf(), ...samples(0), title: "first" }, { "sample/2": u8([third.length], third) });
  };
  const one = { part: "decoder", layer: 0, head: 0, reduce: "mean" } as const;
  const mean = { part: "decoder", layer: 0, head: null, reduce: "mean" } as const;

  it("of a page serve what the page holds, and say what it does not hold", async () => {
    const tiles = await openTiles(bundleOf({ "map/decoder/0/0": head({ nq: 3 }).block, "thumbs/decoder": block("thumbs", {}, {}) }), null, new AbortController().signal);
    expect(tiles.meta.title).toBe("TinyModel");
    expect([tiles.live, tiles.has("map/decoder/0/0"), tiles.has("map/decoder/0/1")]).toEqual([false, true, false]);
    expect((await tiles.map(one)).nq).toBe(3);
    expect((await tiles.get("thumbs/decoder")).kind).toBe("thumbs");
    await expect(tiles.map(mean)).rejects.toThrow("A larger budget");
  });

  it.each([[undefined, "first", 0], [0, "first", 0], [2, "third", 2], [1, "first", 0]])("of sample %s are of the bundle that holds it, or of what is shown instead", async (sample, name, at) => {
    const { meta } = await openTiles(bundleOfThree(), null, new AbortController().signal, sample);
    expect([meta.title, meta.samples]).toEqual([name, { count: 3, at, noun: "text" }]);
  });

  it("ask the kernel for the sample they show", async () => {
    const kernel = new Kernel();
    const controller = new AbortController();
    const tiles = await openTiles(bundleOfThree(), kernel, controller.signal, 2);
    void tiles.map(one).catch(() => undefined);
    await vi.waitFor(() => { expect(kernel.requests.map(({ sample }) => sample)).toEqual([2]); });
    controller.abort();
  });

  it("are not made of a sample that is another one inside", async () => {
    await expect(openTiles(bundleOfThree(1), null, new AbortController().signal, 2)).rejects.toThrow("“sample/2” holds sample 1");
  });

  it("make a map once", async () => {
    const tiles = await openTiles(bundleOf({ "map/decoder/0/0": head({ nq: 3 }).block }), null, new AbortController().signal);
    expect(await tiles.map(one)).toBe(await tiles.map({ ...one, reduce: "max" }));
  });

  it("ask the kernel for what is not stored, and for exact rows of pooled maps", async () => {
    const kernel = new Kernel();
    const tiles = await openTiles(bundleOf({ "map/decoder/0/0": head({ nq: 3 }).block }), kernel, new AbortController().signal);
    expect(tiles.live).toBe(true);
    expect(await tiles.row(one, 2)).toHaveLength(3);
    expect(kernel.heard).toEqual([]);

    const pooled = weights([[0.25]], { rows: [0, 2], cols: [0, 3], step: [2, 3], n_q: 2, n_k: 3 });
    const row = tiles.row(mean, 1);
    let asked = 0;
    const answer = async (value: Block): Promise<void> => {
      asked++;
      await vi.waitFor(() => expect(kernel.requests).toHaveLength(asked));
      kernel.answer(kernel.requests.length - 1, bytesOfBlock(value));
    };
    await answer(pooled);
    await vi.waitFor(() => expect(kernel.requests).toHaveLength(2));
    expect(kernel.requests[1]).toMatchObject({ want: "row", layer: 0, head: null, index: 1 });
    await answer(weights([[0.25, 1, "masked"]], { rows: [1, 2], cols: [0, 3], n_q: 2, n_k: 3 }));
    expect([...(await row)]).toEqual([expect.closeTo(0.25, 4), 1, MASKED]);

    const column = tiles.column(mean, 2);
    await vi.waitFor(() => expect(kernel.requests).toHaveLength(3));
    await answer(weights([[1], [0]], { rows: [0, 2], cols: [2, 3], n_q: 2, n_k: 3 }));
    expect([...(await column)]).toEqual([1, 0]);
  });

  it("in a saved notebook without a kernel say so", async () => {
    const kernel = new Kernel();
    kernel.broken = true;
    const tiles = await openTiles(bundleOf({}), kernel, new AbortController().signal);
    await expect(tiles.map(one)).rejects.toThrow("there is no kernel to ask");
    expect(tiles.live).toBe(false);
  });

  it("are not made of bytes that are no bundle", async () => {
    await expect(openTiles(new Uint8Array(3), null, new AbortController().signal)).rejects.toThrow("not attnwidget data");
    await expect(openTiles(packed("a map"), null, new AbortController().signal)).rejects.toThrow("kind “weights”, not a bundle");
    expect((await unpack(bundleOf({}))).kind).toBe("bundle");
  });
});
