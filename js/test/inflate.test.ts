/** Inflate, against zlib's own deflate; and nothing that makes no sense gets through or goes on for ever. */

import { constants, deflateSync } from "node:zlib";

import { describe, expect, it } from "vitest";

import { inflate } from "../src/inflate.ts";
import { gaussian } from "./fixtures.ts";

const next = gaussian(3);
const noise = Uint8Array.from({ length: 70_000 }, () => Math.round(40 * next()));

describe("what zlib packed comes back", () => {
  it.each<[string, Uint8Array]>([
    ["nothing", new Uint8Array()],
    ["a byte", Uint8Array.of(9)],
    ["one byte again and again", new Uint8Array(300_000).fill(7)],
    ["noise", noise],
    ["noise said twice, far apart", Uint8Array.from([...noise.subarray(0, 9000), ...new Uint8Array(20_000), ...noise.subarray(0, 9000)])],
    ["words", new TextEncoder().encode("The cat saw the dog. “Attention” → 0.62 ".repeat(900))],
  ])("%s", (_, data) => {
    for (const level of [0, 1, 6, 9]) {
      for (const strategy of [constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED, constants.Z_HUFFMAN_ONLY]) {
        expect(Buffer.compare(inflate(deflateSync(data, { level, strategy }), data.length), data)).toBe(0);
      }
    }
  });
});

it("ends with a RangeError where the stream is cut, or holds more than was announced", () => {
  const stored = deflateSync(noise.subarray(0, 500));
  for (let length = 0; length < stored.length - 5; length++) expect(() => inflate(stored.subarray(0, length), 500)).toThrow(RangeError);
  expect(() => inflate(stored, 499)).toThrow(RangeError);
});

it("takes any bytes at all: it gives some back, or refuses them", () => {
  for (let round = 0; round < 3000; round++) {
    const bytes = Uint8Array.from({ length: 60 }, () => Math.round(100 * next()));
    try {
      expect(inflate(bytes, 4000).length).toBeLessThanOrEqual(4000);
    } catch (error) {
      expect(error).toBeInstanceOf(RangeError);
    }
  }
});
