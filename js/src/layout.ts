/** Where tokens stand and edges run, in pixels: between two columns, or above and below one line. Pure. */

export const SIDES = ["query", "key"] as const;
export type Side = (typeof SIDES)[number];

export interface Box {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** A cubic Bézier curve from a query to a key: x and y of its ends and of the two points that pull it. */
export type Curve = readonly [x0: number, y0: number, x1: number, y1: number, x2: number, y2: number, x3: number, y3: number];

export interface Layout {
  /** The direction in which tokens follow each other, and in which the picture scrolls. */
  along: "x" | "y";
  nq: number;
  nk: number;
  /** Size of it all, and how much of it is seen at once in the direction in which it scrolls. */
  width: number;
  height: number;
  view: number;
  /** Where edges run, across the direction in which it scrolls: from, to. */
  arcs: readonly [from: number, to: number];
  /** Where token `i` of a side stands, and the numbers beside it. */
  token(side: Side, i: number): Box;
  number(side: Side, i: number): Box;
  /** From a query to a key. `shift` sets the edges of several heads apart, `drawn` moves ends that are out of sight nearer. */
  curve(query: number, key: number, shift: number, drawn: (at: number) => number): Curve;
}

const CHIP = 28; // padding and borders of a chip, and a little air

/** Start and size of token `i` of a side, in the direction in which tokens follow each other. */
export function spanOf(layout: Layout, side: Side, i: number): readonly [start: number, size: number] {
  const { left, top, width, height } = layout.token(side, i);
  return layout.along === "y" ? [top, height] : [left, width];
}

/** Tokens [first, last) of a side that show between two points of the direction in which it scrolls. */
export function tokensBetween(layout: Layout, side: Side, from: number, to: number): [first: number, last: number] {
  const n = side === "query" ? layout.nq : layout.nk;
  /** The first token of which `past` holds, which is true of all after it. */
  const search = (past: (start: number, size: number) => boolean): number => {
    let [low, high] = [0, n];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (past(...spanOf(layout, side, middle))) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  const first = search((start, size) => start + size > from);
  return [first, Math.max(first, search((start) => start >= to))];
}

/** Where ends are drawn that lie outside [from, to): beyond it, but not far, so that edges leave the picture at a slant and not all alike. */
export const drawnWithin = (from: number, to: number) => (at: number): number => {
  const past = (by: number): number => 0.2 * (to - from) * Math.log1p((2 * by) / Math.max(1, to - from));
  return at < from ? from - past(from - at) : at > to ? to + past(at - to) : at;
};

// ── two columns ─────────────────────────────────────────────────────────────────────────────────────────────────────

export interface ColumnsOptions {
  nq: number;
  nk: number;
  width: number;
  /** Widths of the widest tokens. */
  widest: Readonly<Record<Side, number>>;
  /** Widths of the numbers beside queries and keys. */
  numbers: readonly [query: number, key: number];
  /** Tokens may take two lines. */
  tall?: boolean;
}

const HIGH = 560; // pixels of height before the list scrolls
const BAND = 150; // pixels that long tokens leave to the arcs
const SPREAD = 1.5; // how far apart the rows of the shorter side may be

/** Queries left, keys right, numbers outside. */
export function columns({ nq, nk, width, widest, numbers, tall = false }: ColumnsOptions): Layout & { row: number; columns: readonly number[] } {
  const n = Math.max(nq, nk, 1);
  const roomy = Math.floor(HIGH / n);
  const row = roomy >= 18 ? Math.min(tall ? 44 : 26, roomy) : 22;
  const height = row * n;
  const beside = numbers[0] + numbers[1];
  const most = Math.max(48, Math.min(width * (tall ? 0.34 : 0.27), (width - beside - Math.min(BAND, width / 4)) / 2));
  const [query, key] = [Math.min(widest.query + CHIP, most), Math.min(widest.key + CHIP, most)];
  const arcs = Math.max(60, Math.min(460, width - beside - query - key));
  const from = Math.max(0, (width - (beside + query + arcs + key)) / 2);
  let at = from;
  const x = [0, numbers[0], query, arcs, key, numbers[1]].map((wide) => Math.round((at += wide)));
  const view = Math.min(height, HIGH);

  /** Rows of the shorter side are spread out a little, and centred. */
  const top = (side: Side, i: number): number => {
    const count = side === "query" ? nq : nk;
    const pitch = height > view ? height / count : Math.min(height / count, row * SPREAD);
    return Math.round((height - count * pitch) / 2 + i * pitch + (pitch - row) / 2);
  };
  const box = (side: Side, i: number, column: number): Box => ({ left: x[column], top: top(side, i), width: x[column + 1] - x[column], height: row });
  const [x0, x1] = [x[2] + 2, x[3] - 2];
  return {
    along: "y", nq, nk, width, height, view, row, columns: x, arcs: [x[2], x[3]],
    token: (side, i) => box(side, i, side === "query" ? 1 : 3),
    number: (side, i) => box(side, i, side === "query" ? 0 : 4),
    curve: (i, j, shift, drawn) => {
      const [from, to, middle] = [drawn(top("query", i) + row / 2) + shift, drawn(top("key", j) + row / 2) + shift, (x0 + x1) / 2];
      return [x0, from, middle, from, middle, to, x1, to];
    },
  };
}

// ── one line ────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface LineOptions {
  width: number;
  /** Widths of the tokens; of queries and keys, which are the same array where they are the same tokens. */
  queries: ArrayLike<number>;
  keys: ArrayLike<number>;
  /** Width that the numbers need, and their height. */
  numbers: readonly [width: number, height: number];
  /** Some edges look ahead: they run below the line. */
  ahead: boolean;
  /** Room for brackets at the top, and at the bottom where there are two lines. */
  lanes: Readonly<Record<Side, number>>;
}

const CHIP_HIGH = 26;
const AIR = 16; // padding, borders and gap of a token in a line
const LOOSE = 1.6; // how far apart tokens may be where there is room
const [LOW, TALL] = [64, 210]; // height of the highest arc
const FLAT = 10; // height of the lowest
const NEAR = 40; // pixels from which heights grow with the logarithm of the distance: no two distances share a height

/** Tokens side by side: with themselves, arcs back above and arcs ahead below; else keys above and queries below. */
export function line({ width, queries, keys, numbers: [wide, high], ahead, lanes }: LineOptions): Layout {
  const same = queries === keys;
  const needs = [queries, keys].map((widths) => Array.from(widths, (one) => Math.max(wide, one + AIR)));
  const longest = Math.max(...needs.map(total), 1);
  const length = longest > width ? longest : Math.min(width, longest * LOOSE);
  const all = Math.max(length, width);
  const [query, key] = needs.map((widths) => spread(widths, length, all));
  const starts = { query, key };

  const reach = Math.min(TALL, Math.max(LOW, Math.min(length, width) * 0.36));
  // Of one line: bracket, arcs, tokens, numbers, arcs. Of two: bracket, numbers, keys, arcs, queries, numbers, bracket.
  const above = lanes.key + (same ? reach + 6 : high);
  const tops = { key: above, query: same ? above : above + CHIP_HIGH + reach };
  const height = tops.query + CHIP_HIGH + high + (same ? (ahead ? reach + 6 : 0) : lanes.query);
  const half = (side: Side, i: number): number => (starts[side][i] + starts[side][i + 1]) / 2;
  const box = (side: Side, i: number, top: number, size: number): Box => ({ left: starts[side][i] + 1, top, width: starts[side][i + 1] - starts[side][i] - 2, height: size });
  return {
    along: "x", nq: queries.length, nk: keys.length, width: all, height, view: width, arcs: [0, height],
    token: (side, i) => box(side, i, tops[side], CHIP_HIGH),
    number: (side, i) => box(side, i, same || side === "query" ? tops.query + CHIP_HIGH : tops.key - high, high),
    curve: (i, j, shift, drawn) => {
      const [from, to] = [half("query", i), half("key", j)];
      const [x0, x3] = [drawn(from) + shift, drawn(to) + shift];
      const below = same && j > i;
      const y = below ? tops.query + CHIP_HIGH + high + 2 : tops.query - 2;
      const end = same ? y : tops.key + CHIP_HIGH + 2;
      // A token that looks at itself has a loop; its ends stand apart so that the wide one shows.
      if (same && i === j) return [x0 + 6, y, x0 + 14, y - 26 - shift, x0 - 14, y - 26 - shift, x0 - 6, y];
      const share = Math.log1p(Math.abs(to - from) / NEAR) / Math.log1p(all / NEAR);
      const rise = (FLAT + (reach - FLAT - 4) * share) * (below ? -4 : 4) / 3; // a cubic rises to three quarters of its pull
      const pull = same ? y - rise : (y + end) / 2;
      const lean = same ? (x3 - x0) * 0.1 : 0;
      return [x0, y, x0 + lean, pull, x3 - lean, pull, x3, end];
    },
  };
}

const total = (widths: readonly number[]): number => widths.reduce((sum, width) => sum + width, 0);

/** Where tokens begin, and the last one ends, so that together they take as much of `length` as they may, amid `all`. */
function spread(widths: readonly number[], length: number, all: number): number[] {
  const sum = total(widths);
  const room = Math.min(length, sum * LOOSE ** 2);
  let at = (all - room) / 2;
  return [Math.round(at), ...widths.map((width) => Math.round((at += width + (room - sum) / widths.length)))];
}
