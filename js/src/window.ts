/** A window onto an axis that may be longer than the screen: which places are in sight, and where. Pure arithmetic, in the pixels of the screen. */

import type { Region } from "./math.ts";

/** One axis of a map, in a box. */
export interface Sight {
  /** Places of the axis. */
  readonly n: number;
  /** Pixels of the box. */
  readonly size: number;
  /** Pixels a place has: all of the axis fits, or a whole number, or one whole-th of a pixel. */
  readonly pitch: number;
  /** The place at the edge of the box; a whole number of pixels from the start of the axis. */
  readonly from: number;
}

/** The axis as a whole. */
export const wholeOf = (n: number, size: number): Sight => ({ n, size, pitch: size / n, from: 0 });
export const isWhole = ({ n, size, pitch }: Sight): boolean => n * pitch <= size * (1 + 1e-9);

/** How many places are in sight. */
export const spanOf = ({ size, pitch }: Sight): number => size / pitch;

/** Where place `i` begins, in pixels from the edge of the box. */
export const startOf = ({ pitch, from }: Sight, i: number): number => (i - from) * pitch;

/** The place, with its fraction, at pixel `x` of the box. */
export const placeAt = ({ pitch, from }: Sight, x: number): number => from + x / pitch;

/** The nearest number of pixels per place that keeps cells alike: 1, 2, 3 …, or ½, ⅓ … */
export const snapped = (pitch: number): number => (pitch >= 1 ? Math.round(pitch) : 1 / Math.round(1 / pitch));

/** The sight with its edge at place `from`, or as near as the axis allows. */
export function moved(sight: Sight, from: number): Sight {
  if (isWhole(sight)) return { ...sight, from: 0 };
  const { n, size, pitch } = sight;
  const last = Math.max(0, Math.ceil(n * pitch - size - 1e-6));
  return { ...sight, from: Math.min(last, Math.max(0, Math.round(from * pitch))) / pitch };
}

/** The sight with `pitch` pixels per place, or what makes all of the axis fit if that is more; what is at pixel `x` stays there. */
export function zoomed(sight: Sight, pitch: number, x: number): Sight {
  const { n, size } = sight;
  const wide = Math.max(size / n, pitch);
  return moved({ ...sight, pitch: wide }, placeAt(sight, x) - x / wide);
}

/** All of an axis, or as much of it, and as close, as was in sight before. */
export const resumed = (whole: Sight, before: Sight): Sight => (before.n === whole.n && !isWhole(before) ? moved(zoomed(whole, before.pitch, 0), before.from) : whole);

/** The sight moved as little as needed for place `i` to be in sight, and its neighbours. */
export function revealing(sight: Sight, i: number): Sight {
  const span = spanOf(sight);
  const air = Math.min(1, (span - 1) / 2);
  if (i - air < sight.from) return moved(sight, i - air);
  return i + 1 + air > sight.from + span ? moved(sight, i + 1 + air - span) : sight;
}

/** Where a key leads on a map with `nk` keys: rows down and columns across; `all` rows with Ctrl or ⌘ held. */
export function stride(key: string, page: number, all: number, nk: number): readonly [down: number, across: number] {
  const strides: Record<string, readonly [number, number]> = {
    ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [-all, -nk], End: [all, nk], PageUp: [-page, 0], PageDown: [page, 0],
  };
  return strides[key] ?? [0, 0];
}

/** Places [first, last) of which something is in sight. */
export function seen(sight: Sight): readonly [first: number, last: number] {
  const slack = 1e-6;
  return [Math.max(0, Math.floor(sight.from + slack)), Math.min(sight.n, Math.ceil(sight.from + spanOf(sight) - slack))];
}

/** How many places share a pixel. */
export const blockOf = ({ pitch }: Sight): number => (pitch >= 1 ? 1 : Math.round(1 / pitch));

/** Places [first, last) to compute for what is in sight and `margin` of it on either side, in whole pixels; and how many cells that makes. */
export function toCompute(sight: Sight, margin: number): readonly [first: number, last: number, bins: number] {
  if (isWhole(sight)) return [0, sight.n, Math.min(sight.n, Math.max(1, Math.round(sight.size)))];
  const block = blockOf(sight);
  const [first, last] = seen(sight);
  const air = margin * spanOf(sight);
  const from = Math.max(0, Math.floor((first - air) / block) * block);
  const to = Math.min(sight.n, Math.ceil((last + air) / block) * block);
  return [from, to, Math.ceil((to - from) / block)];
}

export const covers = (outer: Region, inner: Region): boolean => outer.r0 <= inner.r0 && outer.r1 >= inner.r1 && outer.c0 <= inner.c0 && outer.c1 >= inner.c1;

/** The bin of `bins` over [start, end) that is drawn at `place`. */
export const binAt = (place: number, start: number, end: number, bins: number): number => Math.min(bins - 1, Math.max(0, Math.floor(((place - start) * bins) / (end - start))));

// ── labels ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The smallest of 1, 2, 5, 10, 20, 50 … that is at least `least`. */
export function roundStep(least: number): number {
  const ten = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return [1, 2, 5, 10].map((times) => times * ten).find((step) => step >= least) ?? 10 * ten;
}

/** The smallest round number that is at least `value` > 0: the end of a scale. */
export function roof(value: number): number {
  const ten = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 5].find((times) => times * ten >= value * (1 - 1e-9)) ?? 10) * ten;
}

/** Every k-th place in sight, and k: 1 where places are at least `beside` apart, else a round number that makes labels at least `apart`. */
export function ticks(sight: Sight, beside: number, apart: number): { step: number; places: number[] } {
  const step = sight.pitch >= beside ? 1 : roundStep(apart / sight.pitch);
  const [first, last] = seen(sight);
  const places: number[] = [];
  for (let i = Math.ceil(first / step) * step; i < last; i += step) {
    const middle = startOf(sight, i + 0.5);
    if (middle >= 0 && middle <= sight.size) places.push(i);
  }
  return { step, places };
}
