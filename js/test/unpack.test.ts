/** LZMA, against the encoder of another implementation (LZMA-JS). */

import lzma from "lzma";
import { describe, expect, it } from "vitest";

import { DIGITS, expand, unpack } from "../src/unpack.ts";
import { gaussian } from "./fixtures.ts";

const HEADER = 13;

/** Slow and obvious: all bits in a row, thirteen at a time. */
function packed(bytes: Uint8Array): string {
  const data = Uint8Array.from(lzma.compress(bytes, 9)).subarray(HEADER);
  const bits = Array.from([...data, 0, 0], (byte) => byte.toString(2).padStart(8, "0").split("").reverse().join("")).join("");
  return (bits.match(/.{13}/g) ?? []).map((each) => Number.parseInt(each.split("").reverse().join(""), 2)).map((value) => DIGITS[value % 91] + DIGITS[Math.floor(value / 91)]).join("");
}

const bytes = (n: number, of: (i: number) => number): Uint8Array => Uint8Array.from({ length: n }, (_, i) => of(i));
const next = gaussian(5);
const noise = bytes(5000, () => Math.floor(next() * 1000));

describe("what was packed comes back", () => {
  it.each([
    ["nothing", new Uint8Array()],
    ["a byte", Uint8Array.of(7)],
    ["one byte again and again", bytes(100_000, () => 42)],
    ["noise", noise],
    ["noise said twice, far apart", Uint8Array.from([...noise, ...bytes(70_000, (i) => i % 251), ...noise])],
    ["periods that change", bytes(30_000, (i) => (i % (3 + (i >> 10))) * 17)],
    ["words", new TextEncoder().encode("The cat saw the dog. “Attention” → 0.62 ".repeat(500))],
  ])("%s", (_, data) => {
    expect(unpack(packed(data), data.length)).toEqual(data);
  });
});

it("its digits are 91 that nothing has to escape", () => {
  expect(new Set(DIGITS).size).toBe(91);
  expect(JSON.stringify(DIGITS)).toBe(`"${DIGITS}"`);
  expect(DIGITS).not.toMatch(/[<"\\]/);
});

it("characters below the space stand for words, and all others for themselves", () => {
  const text = (short: string): string => expand(new TextEncoder().encode(short));
  expect(text("return\0this.#\0\u0001 \u0002a+“é\u{1f600}” \uffff")).toBe("return this.#a+“é\u{1f600}” \uffff");
  expect(text("a = 1")).toBe("a = 1");
});
