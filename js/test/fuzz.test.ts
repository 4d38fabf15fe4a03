/** Bundles that somebody has tampered with: each opens, or is refused in words, at once and without a mountain of memory. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { deflateSync } from "node:zlib";

import { describe, expect, it } from "vitest";

import { weightMap } from "../src/math.ts";
import { MissingError, openTiles } from "../src/tiles.ts";
import { bundleMeta, mapKey, unpack, WireError } from "../src/wire.ts";
import { bundleMetaOf, frame, pack, u8 } from "./fixtures.ts";

const GOLDEN = fileURLToPath(new URL("../../tests/golden", import.meta.url));
const golden = readdirSync(GOLDEN).filter((name) => name.endsWith(".bin") && !name.startsWith("refused")).map((name) => [name, new Uint8Array(readFileSync(join(GOLDEN, name)))] as const);

/** Numbers from 0 to `below` that are the same each time (xorshift). */
function dice(seed: number): (below: number) => number {
  let x = seed * 2654435761 + 1;
  return (below) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % Math.max(1, below);
  };
}

const HOSTILE: readonly unknown[] = [-1, 0, 2 ** 31, 2 ** 53, 1e308, "", "<img src=x onerror=alert(1)>", "__proto__", "\ud800", null, true, [], {}, [[]], ["x"], [-1], { length: 4e9 }, "f64", "weights", "x".repeat(50_000)];

/** The header of a block with one of its values, anywhere in it, turned into something else. */
function lying(bytes: Uint8Array, roll: (below: number) => number): Uint8Array<ArrayBuffer> {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(16, 16 + length))) as unknown;
  const places: [holder: Record<string, unknown>, name: string][] = [];
  const walk = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return;
    for (const [name, inner] of Object.entries(value)) {
      places.push([value as Record<string, unknown>, name]);
      walk(inner);
    }
  };
  walk(header);
  const [holder, name] = places[roll(places.length)];
  if (roll(6) === 0) Reflect.deleteProperty(holder, name);
  else holder[name] = HOSTILE[roll(HOSTILE.length)];
  const text = new TextEncoder().encode(JSON.stringify(header));
  const words = new Uint8Array(Math.ceil(text.length / 8) * 8).fill(0x20);
  words.set(text);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return frame(words, bytes.slice(16 + length), { encoding: bytes[5], payloadLength: view.getUint32(12, true) });
}

function mutated(bytes: Uint8Array, roll: (below: number) => number): Uint8Array {
  const changed = bytes.slice();
  const view = new DataView(changed.buffer);
  switch (roll(6)) {
    case 0:
      return changed.slice(0, roll(changed.length));
    case 1:
      for (let n = 0; n <= roll(8); n++) changed[roll(changed.length)] ^= 1 << roll(8);
      return changed;
    case 2:
      view.setUint32(8 + 4 * roll(2), roll(2) === 0 ? roll(2 ** 32) : 0xffffffff, true); // a length that lies
      return changed;
    case 3:
      changed[4 + roll(4)] = roll(256); // another version, another encoding
      return changed;
    default:
      return lying(changed, roll);
  }
}

/** Opens a block as the views would: all that it holds is read. */
async function read(bytes: Uint8Array): Promise<void> {
  const block = await unpack(bytes);
  if (block.kind === "bundle") {
    const { samples, parts } = bundleMeta(block);
    const tiles = await openTiles(bytes, null, new AbortController().signal, samples.at);
    for (const [key] of block.arrays) if (!key.startsWith("map/")) await tiles.get(key).catch(expected);
    for (const { name, layers } of parts.slice(0, 4)) {
      for (const [layer, { heads }] of layers.slice(0, 3).entries()) if (heads > 0) await tiles.map({ part: name, layer, head: 0, reduce: "mean" }).then((map) => map.row(0)).catch(expected);
    }
  } else if (block.kind === "weights" || block.kind === "qk") weightMap(block).row(0);
}

function expected(error: unknown): void {
  const polite = error instanceof WireError || error instanceof MissingError || (error instanceof RangeError && error.message.startsWith("Queries "));
  if (!polite) throw error;
  expect((error as Error).message).toMatch(/^.{20,}/s);
}

describe("golden files that were tampered with", () => {
  it("are there", () => {
    expect(golden.length).toBeGreaterThan(3);
  });

  it.each(golden)("%s: opened, or refused in words", async (name, bytes) => {
    const roll = dice(name.length);
    for (let round = 0; round < 150; round++) {
      const start = performance.now();
      await read(mutated(bytes, roll)).catch(expected);
      expect(performance.now() - start, `${name}, round ${round}`).toBeLessThan(2000);
    }
  });
});

describe("what is built to do harm", () => {
  const refused = async (bytes: Uint8Array): Promise<string> => unpack(bytes).then(() => "opened", (error: unknown) => { expected(error); return (error as Error).message; });

  it("lengths that lie are refused before anything is set aside for them", async () => {
    const small = deflateSync(new Uint8Array(64));
    const header = new TextEncoder().encode('{"kind":"qk","meta":{},"arrays":[]}     ');
    for (const payloadLength of [2 ** 32 - 1, 2 ** 29 + 1, 1_000_000]) expect(await refused(frame(header, small, { encoding: 1, payloadLength }))).toContain("cannot be packed into");
    const bomb = deflateSync(new Uint8Array(30_000_000));
    expect(await refused(frame(header, bomb, { encoding: 1, payloadLength: 64 }))).toMatch(/payload bytes where the header says 64|stops making sense/);
    const huge = [{ name: "q", dtype: "f32", shape: [2 ** 26, 2 ** 26], offset: 0 }, { name: "q", dtype: "u8", shape: new Array(5000).fill(2), offset: 0 }];
    for (const array of huge) expect(await refused(pack("qk", {}, {}, { header: { arrays: [array] } }))).toContain("are damaged");
  });

  it("JSON that is nested without end is refused, or read", async () => {
    const deep = new TextEncoder().encode(`{"kind":"qk","arrays":[],"meta":{"x":${"[".repeat(200_000)}${"]".repeat(200_000)}}}`);
    const words = new Uint8Array(Math.ceil(deep.length / 8) * 8).fill(0x20);
    words.set(deep);
    expect(await refused(frame(words, new Uint8Array()))).toMatch(/opened|not readable JSON/);
  });

  it("more heads than there can be are refused: nobody could draw them", async () => {
    const bundle = await unpack(pack("bundle", bundleMetaOf(2, 1e9)));
    expect(() => bundleMeta(bundle)).toThrow(/heads/);
    const grid = bundleMetaOf();
    (grid["axes"] as Record<string, unknown>[])[0]["grid"] = [1e6, 1e6];
    expect(bundleMeta(await unpack(pack("bundle", grid))).axes[0].grid).toBeNull();
  });

  it("names like those of every object are names like any other", async () => {
    const block = await unpack(pack("qk", {}, { __proto__: u8([1], [1]), constructor: u8([1], [2]) }));
    expect([...block.arrays.keys()]).toEqual(["constructor"]);
    const tiles = await openTiles(pack("bundle", bundleMetaOf()), null, new AbortController().signal);
    for (const part of ["__proto__", "constructor", "toString"]) await expect(tiles.get(`map/${mapKey({ part, layer: 0, head: 0, reduce: "mean" })}`)).rejects.toBeInstanceOf(MissingError);
  });
});
