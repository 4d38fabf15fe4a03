/**
 * LZMA as text: how the widget's script is packed, which travels once per widget. It takes an eighth less than deflate,
 * the one format that browsers unpack themselves.
 *
 * The range decoder and the models are those of the LZMA specification (Igor Pavlov, 2015) with lc 3, lp 0 and pb 2.
 */

/** How many characters there are: from the space to DEL without " and \\, so that JSON has none of them to escape. */
export const DIGITS = 94;

/** The bytes that stand in `text`: nine in eleven characters (94¹¹ > 2⁷²), the largest digit first; a few zeros may follow them. */
function bytesIn(text: string): Uint8Array {
  const bytes = new Uint8Array((text.length / 11) * 9);
  for (let at = 0; at < text.length; at++) {
    const sign = text.charCodeAt(at);
    const first = Math.floor(at / 11) * 9;
    let carry = sign - 32 - Number(sign > 34) - Number(sign > 92);
    for (let n = first + 8; n >= first; n--, carry >>= 8) bytes[n] = carry += bytes[n] * DIGITS;
  }
  return bytes;
}

// Where the probabilities of each kind of decision begin.
const IS_MATCH = 6144; // before it: literals, 768 for each of 8 kinds of the byte before
const IS_REP = IS_MATCH + 192;
const IS_LONG = IS_REP + 48;
const SLOT = IS_LONG + 192;
const SPECIAL = SLOT + 256;
const ALIGN = SPECIAL + 128;
const LENGTH = ALIGN + 16;
const REP_LENGTH = LENGTH + 514;

/** The `size` bytes that were packed into `text`. */
export function unpack(text: string, size: number): Uint8Array {
  const input = bytesIn(text);
  const out = new Uint8Array(size);
  const odds = new Uint16Array(REP_LENGTH + 514).fill(1024); // of a 0, in 2048ths
  let [at, range, code] = [1, 0xffffffff, 0];
  const shift = (): void => { code = ((code << 8) | input[at++]) >>> 0; };
  for (let n = 0; n < 4; n++) shift();

  const narrowed = (): void => {
    if (range >= 0x1000000) return;
    range = (range << 8) >>> 0;
    shift();
  };
  const bit = (model: number): number => {
    const bound = (range >>> 11) * odds[model];
    const one = code >= bound;
    if (one) {
      range -= bound;
      code -= bound;
      odds[model] -= odds[model] >> 5;
    } else {
      range = bound;
      odds[model] += (2048 - odds[model]) >> 5;
    }
    narrowed();
    return Number(one);
  };
  const tree = (model: number, bits: number): number => {
    let path = 1;
    for (let n = 0; n < bits; n++) path = 2 * path + bit(model + path);
    return path - 2 ** bits;
  };
  const reversed = (model: number, bits: number): number => {
    let [path, value] = [1, 0];
    for (let n = 0; n < bits; n++) {
      const one = bit(model + path);
      path = 2 * path + one;
      value += one << n;
    }
    return value;
  };
  const even = (bits: number): number => {
    let value = 0;
    for (let n = 0; n < bits; n++) {
      range >>>= 1;
      const one = code >= range;
      if (one) code -= range;
      narrowed();
      value = 2 * value + Number(one);
    }
    return value;
  };
  const length = (model: number, place: number): number => {
    if (bit(model) === 0) return 2 + tree(model + 2 + 8 * place, 3);
    return bit(model + 1) === 0 ? 10 + tree(model + 130 + 8 * place, 3) : 18 + tree(model + 258, 8);
  };
  const distance = (steps: number): number => {
    const slot = tree(SLOT + 64 * Math.min(3, steps - 2), 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1;
    const from = (2 | (slot & 1)) * 2 ** bits;
    return slot < 14 ? from + reversed(SPECIAL + from - slot, bits) : from + 16 * even(bits - 4) + reversed(ALIGN, 4);
  };

  const back = [0, 0, 0, 0]; // how far back the last four matches lay, less one
  let state = 0;
  for (let n = 0; n < size; ) {
    const place = n & 3;
    if (bit(IS_MATCH + 16 * state + place) === 0) {
      const literal = 768 * ((out[n - 1] ?? 0) >> 5);
      let path = 1;
      if (state > 6) {
        for (let other = out[n - back[0] - 1]; path < 256; other <<= 1) {
          const expected = (other >> 7) & 1;
          const one = bit(literal + 256 * (1 + expected) + path);
          path = 2 * path + one;
          if (one !== expected) break;
        }
      }
      while (path < 256) path = 2 * path + bit(literal + path);
      out[n++] = path;
      state = state < 4 ? 0 : state - (state < 10 ? 3 : 6);
      continue;
    }
    let steps = 1;
    if (bit(IS_REP + state) === 0) {
      steps = length(LENGTH, place);
      back.unshift(distance(steps));
      back.pop();
      state = state < 7 ? 7 : 10;
    } else {
      const which = bit(IS_REP + 12 + state) === 0 ? 0 : bit(IS_REP + 24 + state) === 0 ? 1 : 2 + bit(IS_REP + 36 + state);
      const short = which === 0 && bit(IS_LONG + 16 * state + place) === 0;
      back.unshift(...back.splice(which, 1));
      if (!short) steps = length(REP_LENGTH, place);
      state = state < 7 ? (short ? 9 : 8) : 11;
    }
    for (const end = Math.min(size, n + steps); n < end; n++) out[n] = out[n - back[0] - 1];
  }
  return out;
}

/** The text in `bytes`: words, each with a NUL behind it, and what they stand in as the character of their number, from 1. */
export function expand(bytes: Uint8Array): string {
  const words = new TextDecoder().decode(bytes).split("\0");
  return (words.pop() ?? "").replace(/[^ -\uffff]/g, (sign) => words[sign.charCodeAt(0) - 1]);
}
