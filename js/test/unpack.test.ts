/** LZMA, against the encoder of another implementation (LZMA-JS). */

import lzma from "lzma";
import { describe, expect, it } from "vitest";

import { DIGITS, expand, unpack } from "../src/unpack.ts";
import { gaussian } from "./fixtures.ts";

const HEADER = 13;

const SIGNS = Array.from({ length: 96 }, (_, n) => String.fromCharCode(32 + n)).filter((sign) => sign !== '"' && sign !== "\\");

/** Nine bytes as one large number, as eleven digits. */
function packed(bytes: Uint8Array): string {
  const data = Buffer.from(Uint8Array.from(lzma.compress(bytes, 9)).subarray(HEADER));
  const nines = Array.from({ length: Math.ceil(data.length / 9) }, (_, n) => data.subarray(9 * n, 9 * n + 9).toString("hex").padEnd(18, "0"));
  return nines.map((nine) => Array.from({ length: 11 }, (_, n) => SIGNS[Number((BigInt(`0x${nine}`) / 94n ** BigInt(10 - n)) % 94n)]).join("")).join("");
}

const bytes = (n: number, of: (i: number) => number): Uint8Array => Uint8Array.from({ length: n }, (_, i) => of(i));
const next = gaussian(5);
const noise = bytes(5000, () => Math.floor(next() * 1000));

describe("what was packed comes back", () => {
  it.each([
    ["nothing", new Uint8Array()],
    ["a byte", Uint8Array.of(7)],
    ["one byte again and again", bytes(20_000, () => 42)],
    ["noise", noise],
    ["noise said twice, far apart", Uint8Array.from([...noise, ...bytes(20_000, (i) => i % 251), ...noise])],
    ["periods that change", bytes(9_000, (i) => (i % (3 + (i >> 10))) * 17)],
    ["words", new TextEncoder().encode("The cat saw the dog. “Attention” → 0.62 ".repeat(500))],
  ])("%s", (_, data) => {
    expect(Buffer.compare(unpack(packed(data), data.length), data)).toBe(0);
  });
});

it("its digits are all of a byte that JSON does not escape", () => {
  expect(SIGNS).toHaveLength(DIGITS);
  expect(JSON.stringify(SIGNS.join(""))).toBe(`"${SIGNS.join("")}"`);
});

it("characters below the space stand for words, and all others for themselves", () => {
  const text = (short: string): string => expand(new TextEncoder().encode(short));
  expect(text("return\0this.#\0\u0001 \u0002a+“é\u{1f600}” \uffff")).toBe("return this.#a+“é\u{1f600}” \uffff");
  expect(text("a = 1")).toBe("a = 1");
});
