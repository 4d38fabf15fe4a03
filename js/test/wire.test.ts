import { describe, expect, it } from "vitest";

import type { Block } from "../src/wire.ts";
import { bundleMeta, bytesOf, findArray, mapKey, MASKED, needArray, PADDED, replyOf, selectionOf, thumbTable, unpack, weightTable, WireError } from "../src/wire.ts";
import { block, bundleMetaOf, f32, frame, i16, pack, u8 } from "./fixtures.ts";

const refusal = async (bytes: Uint8Array<ArrayBuffer>): Promise<string> => {
  const error: unknown = await unpack(bytes).then(
    () => new Error("it was accepted"),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(WireError);
  return (error as WireError).message;
};

const arrays = { small: u8([3], [1, 2, 3]), table: f32([2, 2], [0.5, -1, NaN, 4]), codes: i16([1, 3], [-32768, 0, 32767]) };

describe("a block that is read back", () => {
  it.each([false, true])("gives kind, meta and every array (compressed: %s)", async (compress) => {
    const read = await unpack(pack("qk", { title: "x̄ “quoted”" }, arrays, { compress }));
    expect(read.kind).toBe("qk");
    expect(read.meta).toEqual({ title: "x̄ “quoted”" });
    for (const [name, array] of Object.entries(arrays)) expect(read.arrays.get(name)).toEqual(array);
  });

  it("may start at any byte of a larger buffer", async () => {
    const bytes = pack("qk", {}, arrays);
    for (const shift of [0, 1, 2, 3, 4, 7, 8]) {
      const larger = new Uint8Array(bytes.length + 20).fill(0xee);
      larger.set(bytes, shift);
      for (const view of [larger.subarray(shift, shift + bytes.length), new DataView(larger.buffer, shift, bytes.length)]) {
        const read = await unpack(view);
        for (const [name, array] of Object.entries(arrays)) expect(read.arrays.get(name)).toEqual(array);
      }
    }
  });

  it("shares memory where the alignment allows it", async () => {
    const bytes = pack("qk", {}, arrays);
    const read = await unpack(bytes);
    expect(read.arrays.get("table")?.data.buffer).toBe(bytes.buffer);
  });

  it("may hold no arrays, and arrays without cells", async () => {
    expect((await unpack(pack("bundle", {}))).arrays.size).toBe(0);
    const read = await unpack(pack("qk", {}, { none: f32([0, 64], []) }, { compress: true }));
    expect(read.arrays.get("none")?.shape).toEqual([0, 64]);
  });

  it("may be read from an ArrayBuffer", async () => {
    expect((await unpack(pack("qk", {}, arrays).buffer)).kind).toBe("qk");
  });
});

describe("bytes that are refused", () => {
  it("are refused in words at every length they can be cut to", async () => {
    for (const compress of [false, true]) {
      const whole = pack("qk", { n_q: 1 }, arrays, { compress });
      for (let length = 0; length < whole.length; length++) {
        expect(await refusal(whole.slice(0, length))).toMatch(length < 4 ? /not attnwidget data/ : /truncated/);
      }
    }
  });

  it("are foreign when the magic differs", async () => {
    expect(await refusal(new TextEncoder().encode("PK\x03\x04 a zip archive, say"))).toMatch(/not attnwidget data/);
    expect(await refusal(new Uint8Array(64))).toMatch(/not attnwidget data/);
  });

  it("name both formats when another version made them", async () => {
    expect(await refusal(frame(new Uint8Array(8).fill(0x20), new Uint8Array(0), { version: 2 }))).toBe(
      "The data were made by another version: format 2, this reads 1.",
    );
  });

  it("are damaged when the encoding is unknown, or reserved bytes are used", async () => {
    expect(await refusal(frame(new Uint8Array(8), new Uint8Array(0), { encoding: 2 }))).toMatch(/encoding 2/);
    const bytes = pack("qk", {});
    bytes[6] = 1;
    expect(await refusal(bytes)).toMatch(/damaged/);
  });

  it("are damaged when the header is no JSON, no object, or no UTF-8", async () => {
    for (const text of ["{kind:    ", "[]      ", "null    ", '"ATTN"  ', '{"kind": "qk", "meta": {}, "arrays": {}}']) {
      const header = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 8) * 8));
      expect(await refusal(frame(header, new Uint8Array(0)))).toMatch(/header/);
    }
    expect(await refusal(frame(new Uint8Array(8).fill(0xff), new Uint8Array(0)))).toMatch(/header is not readable JSON/);
  });

  it("are damaged when the header is not padded to 8 bytes", async () => {
    expect(await refusal(frame(new TextEncoder().encode('{"kind":"x"}'), new Uint8Array(8)))).toMatch(/multiple of 8/);
  });

  it("are damaged when the payload is longer than announced, compressed or not", async () => {
    const raw = pack("qk", {}, arrays);
    const longer = new Uint8Array(raw.length + 8);
    longer.set(raw);
    expect(await refusal(longer)).toMatch(/payload bytes where the header says/);
    const compressed = pack("qk", {}, { big: u8([100_000], new Uint8Array(100_000)) }, { compress: true });
    new DataView(compressed.buffer).setUint32(12, 8, true);
    expect(await refusal(compressed)).toMatch(/payload bytes where the header says 8/);
  });

  it("are damaged when a compressed byte was changed", async () => {
    const bytes = pack("qk", {}, { big: f32([200], Array.from({ length: 200 }, (_, i) => Math.sin(i))) }, { compress: true });
    bytes[bytes.length - 1] ^= 0xff; // the checksum
    expect(await refusal(bytes)).toMatch(/damaged/);
  });

  it.each([
    ["an unknown number type", { name: "a", dtype: "f64", shape: [1], offset: 0 }, /unknown number type “f64”/],
    ["a type that is a method of objects", { name: "a", dtype: "toString", shape: [1], offset: 0 }, /unknown number type/],
    ["an array beyond the payload", { name: "a", dtype: "f32", shape: [3], offset: 0 }, /needs bytes 0 to 12 of a payload of 8/],
    ["an array that starts beyond it", { name: "a", dtype: "u8", shape: [1], offset: 8 }, /needs bytes 8 to 9/],
    ["a shape too large to count", { name: "a", dtype: "f32", shape: [2 ** 40, 2 ** 40], offset: 0 }, /needs bytes/],
    ["a negative size", { name: "a", dtype: "u8", shape: [-1], offset: 0 }, /shape/],
    ["a fractional size", { name: "a", dtype: "u8", shape: [1.5], offset: 0 }, /shape/],
    ["no shape", { name: "a", dtype: "u8", offset: 0 }, /shape/],
    ["a crooked offset", { name: "a", dtype: "u8", shape: [1], offset: 4 }, /multiple of 8/],
    ["a negative offset", { name: "a", dtype: "u8", shape: [1], offset: -8 }, /multiple of 8/],
    ["no name", { dtype: "u8", shape: [1], offset: 0 }, /no name/],
    ["an entry that is no object", 7, /no name/],
  ])("are damaged when the header describes %s", async (_, entry, words) => {
    const bytes = pack("qk", {}, { cells: u8([8], new Uint8Array(8)) }, { header: { arrays: [entry] } });
    expect(await refusal(bytes)).toMatch(words);
  });

  it("are damaged when two arrays have one name", async () => {
    const entry = { name: "a", dtype: "u8", shape: [1], offset: 0 };
    expect(await refusal(pack("qk", {}, { a: u8([1], [1]) }, { header: { arrays: [entry, entry] } }))).toMatch(/two arrays/);
  });
});

describe("an array of a block", () => {
  const read: Block = block("qk", {}, arrays);

  it("comes with its type and shape checked", () => {
    expect(findArray(read, "table", "f32", [2, -1])?.shape).toEqual([2, 2]);
    expect(() => findArray(read, "table", "f32", [3, 2])).toThrow("“table” is f32 [2, 2], expected f32 [3, 2]");
    expect(() => findArray(read, "codes", "f32", [1, 3])).toThrow("“codes” is i16 [1, 3], expected f32 [1, 3]");
  });

  it("may be missing, unless it is needed", () => {
    expect(findArray(read, "sink", "f32", [1])).toBeNull();
    expect(() => needArray(read, "lse", "f32", [1])).toThrow("the array “lse” is missing");
  });
});

describe("the bytes of a trait", () => {
  it("are found in views, buffers and base64 text", () => {
    const bytes = Uint8Array.from([65, 84, 84, 78, 250]);
    const within = new Uint8Array(20);
    within.set(bytes, 3);
    for (const value of [bytes, bytes.buffer, new DataView(within.buffer, 3, 5), Buffer.from(bytes).toString("base64")]) {
      expect([...(bytesOf(value) ?? [])]).toEqual([...bytes]);
    }
  });

  it("are none in anything else, and damaged base64 is said to be so", () => {
    for (const value of [null, undefined, 3, { buffer: 1 }, []]) expect(bytesOf(value)).toBeNull();
    expect(() => bytesOf("not base64!")).toThrow("not base64");
  });
});

describe("cell codes", () => {
  it("of thumbnails are squares up to 250, and four signs", () => {
    const table = thumbTable(2);
    expect(table[0]).toBe(0);
    expect(table[125]).toBe(0.5);
    expect(table[250]).toBe(2);
    expect([...table.slice(251)]).toEqual([NaN, NaN, NaN, PADDED, MASKED]);
  });

  it("of 16 bits are squares up to 65000, and four signs", () => {
    const table = weightTable(1);
    expect(table[0]).toBe(0);
    expect(table[32500]).toBe(0.25);
    expect(table[65000]).toBe(1);
    expect(table[65001]).toBeNaN();
    expect([...table.slice(65533)]).toEqual([NaN, PADDED, MASKED]);
    expect(weightTable(0.5)[65000]).toBe(0.5);
  });
});

describe("the meta of a bundle", () => {
  it("is read field by field", () => {
    const meta = bundleMeta(block("bundle", bundleMetaOf(2, 3, 4), {}));
    expect(meta.parts[0].layers[1].heads).toBe(3);
    expect(meta.axes[0].labels).toHaveLength(4);
    expect(meta.check?.ok).toBe(true);
    expect(meta.versions).toEqual({ attnwidget: "0.1.0" });
  });

  it("may lack a check, notes, raw tokens and a grid", () => {
    const { check, notes, ...rest } = bundleMetaOf();
    expect([check, notes]).toBeDefined();
    const meta = bundleMeta(block("bundle", { ...rest, axes: [{ kind: "patch", labels: ["a"], special: [0, 5], grid: [1, 1] }] }, {}));
    expect(meta.check).toBeNull();
    expect(meta.notes).toEqual([]);
    const none = { generated: [], image: [], punctuation: [], segments: null, words: null, sentences: null, first_patch: null, picture: null, before: null };
    expect(meta.axes[0]).toEqual({ kind: "patch", labels: ["a"], raw: ["a"], special: [0], grid: [1, 1], ...none });
  });

  it("of a bundle made before samples and generation has one sample, and layers that are all there", () => {
    const meta = bundleMeta(block("bundle", bundleMetaOf(), {}));
    expect(meta.samples).toEqual({ count: 1, at: 0, noun: "text" });
    expect(meta.parts[0].layers.map(({ absent }) => absent)).toEqual([null, null]);
  });

  it("says what kinds of tokens there are, each once, in order, within the axis", () => {
    const meta = bundleMetaOf(1, 1, 4);
    const groups = { segments: [-1, 0, 0, 1], words: [0, 1, 1, 2], sentences: [0, 0, 0, 0] };
    Object.assign((meta["axes"] as object[])[0], { generated: [3, 2, 2, 9], image: [1], punctuation: [0], ...groups });
    expect(bundleMeta(block("bundle", meta, {})).axes[0]).toMatchObject({ generated: [2, 3], image: [1], punctuation: [0], ...groups });
  });

  it("says why a layer has no heads, and only of those", () => {
    const meta = bundleMetaOf(3, 2);
    const layers = (meta["parts"] as { layers: object[] }[])[0].layers;
    Object.assign(layers[0], { heads: 0, absent: "MambaMixer: no attention" });
    Object.assign(layers[1], { heads: 0, absent: null });
    Object.assign(layers[2], { absent: "but it is there" });
    expect(bundleMeta(block("bundle", meta, {})).parts[0].layers.map(({ absent }) => absent)).toEqual(["MambaMixer: no attention", "no attention", null]);
  });

  it("is refused with the path of what is wrong", () => {
    const wrong = (change: (meta: Record<string, never>) => void): (() => unknown) => {
      const meta = bundleMetaOf();
      change(meta as Record<string, never>);
      return () => bundleMeta(block("bundle", meta, {}));
    };
    expect(() => bundleMeta(block("qk", {}, {}))).toThrow("kind “qk”");
    expect(wrong((meta) => Object.assign(meta, { title: 3 }))).toThrow("bundle.title is not text");
    expect(wrong((meta) => Object.assign(meta["axes"][0], { labels: [1] }))).toThrow("bundle.axes[0].labels is not a list of texts");
    expect(wrong((meta) => Object.assign(meta["parts"][0], { layers: "many" }))).toThrow("bundle.parts[0].layers is not a list");
    expect(wrong((meta) => Object.assign(meta["parts"][0], { keys: 4 }))).toThrow("has no axis");
    expect(wrong((meta) => Object.assign(meta, { parts: [] }))).toThrow("nothing to show");
    expect(wrong((meta) => Object.assign(meta, { samples: 3 }))).toThrow("bundle.samples is not an object");
    expect(wrong((meta) => Object.assign(meta, { samples: { count: 2, at: 2, noun: "text" } }))).toThrow("it shows sample 2 of 2");
    expect(wrong((meta) => Object.assign(meta["axes"][0], { generated: [-1] }))).toThrow("bundle.axes[0].generated is not a list of whole numbers");
    expect(wrong((meta) => Object.assign(meta["axes"][0], { segments: [0] }))).toThrow("bundle.axes[0].segments is not a list of 3 groups");
    expect(wrong((meta) => Object.assign(meta["axes"][0], { words: [0, -2, 1] }))).toThrow("bundle.axes[0].words is not a list of 3 groups");
    expect(wrong((meta) => Object.assign((meta["parts"] as { layers: object[] }[])[0].layers[0], { heads: 0, absent: 3 }))).toThrow("bundle.parts[0].layers[0].absent is not text");
  });
});

describe("the name of a map", () => {
  it.each([
    ["decoder/5/3", { part: "decoder", layer: 5, head: 3, reduce: "mean" }],
    ["decoder/5/*/mean", { part: "decoder", layer: 5, head: null, reduce: "mean" }],
    ["decoder/*/2/min", { part: "decoder", layer: null, head: 2, reduce: "min" }],
    ["decoder/*/*/max", { part: "decoder", layer: null, head: null, reduce: "max" }],
    ["a/part/0/0", { part: "a/part", layer: 0, head: 0, reduce: "mean" }],
  ] as const)("%s says what is selected, and back", (key, selection) => {
    expect(mapKey(selection)).toBe(key);
    expect(selectionOf(key)).toEqual(selection);
  });

  it("does not depend on the reduction where nothing is reduced", () => {
    expect(mapKey({ part: "p", layer: 0, head: 0, reduce: "max" })).toBe("p/0/0");
  });

  it("is refused when it is not complete", () => {
    for (const key of ["", "decoder", "decoder/1", "decoder/1/*", "decoder/1/2/mean", "decoder/-1/2", "decoder/*/*/sum"]) expect(selectionOf(key)).toBeNull();
  });
});

describe("a message from the kernel", () => {
  it("is a block, an error, or none of ours", () => {
    expect(replyOf({ type: "block", id: 1, chunk: 0, chunks: 2 })).toEqual({ type: "block", id: 1, chunk: 0, chunks: 2 });
    expect(replyOf({ type: "error", id: 1, message: "no" })).toEqual({ type: "error", id: 1, message: "no" });
    for (const other of [null, "hello", { type: "block" }, { type: "pong", id: 1 }, { id: -1, type: "error" }]) expect(replyOf(other)).toBeNull();
  });

  it("becomes an error when it cannot be understood", () => {
    expect(replyOf({ type: "block", id: 1, chunk: 2, chunks: 2 })).toMatchObject({ type: "error", id: 1 });
    expect(replyOf({ type: "error", id: 1, message: { deep: true } })).toMatchObject({ type: "error", message: "The kernel could not answer." });
  });
});
