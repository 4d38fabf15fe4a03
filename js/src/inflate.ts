/** Zlib (RFC 1950, 1951) for pages in browsers that do not unpack it themselves: those from before 2023. */

interface Codes {
  counts: number[]; // of each length
  symbols: number[]; // by their codes
}

function codesOf(lengths: readonly number[]): Codes {
  const counts = new Array<number>(16).fill(0);
  for (const length of lengths) if (length > 0) counts[length]++;
  const symbols = [...lengths.keys()].filter((symbol) => lengths[symbol] > 0).sort((a, b) => lengths[a] - lengths[b]);
  return { counts, symbols };
}

const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]; // in which code lengths are told
const FIXED = Array.from({ length: 318 }, (_, symbol) => (symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : symbol < 288 ? 8 : 5));

/**
 * What is packed in `input`: at most `size` bytes.
 *
 * @throws RangeError where it makes no sense, ends too early, or holds more.
 */
export function inflate(input: Uint8Array, size: number): Uint8Array {
  const out = new Uint8Array(size);
  let [at, held, bits, n] = [2, 0, 0, 0];
  const check = (fits: boolean): void => { if (!fits) throw new RangeError(); };
  const take = (count: number): number => {
    for (; bits < count; bits += 8) {
      check(at < input.length);
      held |= input[at++] << bits;
    }
    const value = held & (2 ** count - 1);
    held >>= count;
    bits -= count;
    return value;
  };
  const symbolOf = ({ counts, symbols }: Codes): number => {
    for (let length = 1, code = 0, first = 0, index = 0; length < 16; length++) {
      code = 2 * code + take(1);
      first *= 2;
      if (code < first + counts[length]) return symbols[index + code - first];
      index += counts[length];
      first += counts[length];
    }
    throw new RangeError();
  };
  const put = (byte: number): void => {
    check(n < size);
    out[n++] = byte;
  };
  const told = (count: number): number[] => {
    const lengths = new Array<number>(19).fill(0);
    for (const symbol of ORDER.slice(0, take(4) + 4)) lengths[symbol] = take(3);
    const codes = codesOf(lengths);
    const all: number[] = [];
    while (all.length < count) {
      const symbol = symbolOf(codes);
      const times = symbol < 16 ? 1 : symbol === 16 ? 3 + take(2) : symbol === 17 ? 3 + take(3) : 11 + take(7);
      const length = symbol < 16 ? symbol : symbol === 16 ? all[all.length - 1] ?? 0 : 0;
      for (let time = 0; time < times; time++) all.push(length);
    }
    return all;
  };

  for (let last = 0; last === 0; ) {
    last = take(1);
    const kind = take(2);
    check(kind < 3);
    if (kind === 0) {
      [held, bits] = [0, 0];
      const length = take(16);
      take(16);
      for (let byte = 0; byte < length; byte++) put(take(8));
      continue;
    }
    const split = kind === 1 ? 288 : 257 + take(5);
    const lengths = kind === 1 ? FIXED : told(split + 1 + take(5));
    const [literals, distances] = [codesOf(lengths.slice(0, split)), codesOf(lengths.slice(split))];
    for (;;) {
      const symbol = symbolOf(literals);
      if (symbol === 256) break;
      if (symbol < 256) {
        put(symbol);
        continue;
      }
      const [which, more] = [symbol - 257, Math.max(0, (symbol - 261) >> 2)];
      check(which < 29);
      const length = which === 28 ? 258 : 3 + (which < 4 ? which : (4 + (which & 3)) * 2 ** more + take(more));
      const slot = symbolOf(distances);
      const further = Math.max(0, (slot >> 1) - 1);
      const back = 1 + (slot < 2 ? slot : (2 + (slot & 1)) * 2 ** further + take(further));
      check(back <= n);
      for (let step = 0; step < length; step++) put(out[n - back]);
    }
  }
  return out.subarray(0, n);
}
