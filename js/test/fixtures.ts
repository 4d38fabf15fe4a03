/** A writer for blocks, and maps to test with. Slow and obvious on purpose. */

import { setMaxListeners } from "node:events";
import { deflateSync } from "node:zlib";

import type { Block, Dtype, NdArray, TypedArray } from "../src/wire.ts";

setMaxListeners(0); // node warns of many listeners on one signal; browsers do not mind

export interface Spec {
  dtype: Dtype;
  shape: number[];
  data: TypedArray;
}

/** The bytes of a block, as attnwidget/wire.py writes them. `header` overrides what the header says. */
export function pack(
  kind: string,
  meta: Record<string, unknown>,
  arrays: Record<string, Spec> = {},
  { compress = false, header = {} }: { compress?: boolean; header?: Record<string, unknown> } = {},
): Uint8Array<ArrayBuffer> {
  let size = 0;
  const entries = Object.entries(arrays).map(([name, { dtype, shape, data }]) => {
    const offset = size;
    size = Math.ceil((offset + data.byteLength) / 8) * 8;
    return { name, dtype, shape, offset };
  });
  const payload = new Uint8Array(size);
  Object.values(arrays).forEach(({ data }, i) => payload.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), entries[i].offset));
  const text = new TextEncoder().encode(JSON.stringify({ kind, meta, arrays: entries, ...header }));
  const words = new Uint8Array(Math.ceil(text.length / 8) * 8).fill(0x20);
  words.set(text);
  return frame(words, compress ? deflateSync(payload) : payload, { encoding: compress ? 1 : 0, payloadLength: size });
}

/** Header bytes and payload bytes behind a preamble. */
export function frame(header: Uint8Array, payload: Uint8Array, { encoding = 0, version = 1, payloadLength = payload.length } = {}): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(16 + header.length + payload.length);
  const view = new DataView(bytes.buffer);
  bytes.set(new TextEncoder().encode("ATTN"));
  view.setUint8(4, version);
  view.setUint8(5, encoding);
  view.setUint32(8, header.length, true);
  view.setUint32(12, payloadLength, true);
  bytes.set(header, 16);
  bytes.set(payload, 16 + header.length);
  return bytes;
}

/** A block as `unpack` returns it. */
export function block(kind: string, meta: Record<string, unknown>, arrays: Record<string, Spec>): Block {
  return { kind, meta, arrays: new Map<string, NdArray>(Object.entries(arrays)) };
}

export const f32 = (shape: number[], data: ArrayLike<number>): Spec => ({ dtype: "f32", shape, data: Float32Array.from(data) });
export const i32 = (shape: number[], data: ArrayLike<number>): Spec => ({ dtype: "i32", shape, data: Int32Array.from(data) });
export const i16 = (shape: number[], data: ArrayLike<number>): Spec => ({ dtype: "i16", shape, data: Int16Array.from(data) });
export const u8 = (shape: number[], data: ArrayLike<number>): Spec => ({ dtype: "u8", shape, data: Uint8Array.from(data) });
export const f32s = (values: number[]): Spec => f32([values.length], values);

/** Numbers that look random and are the same each time (mulberry32), roughly normal. */
export function gaussian(seed: number): () => number {
  let a = seed;
  const uniform = (): number => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

export interface HeadOptions {
  nq?: number;
  nk?: number;
  d?: number;
  scale?: number;
  softcap?: number;
  /** Whether query i may see key j; causal with `start` and `stop` where it is left out. */
  start?: (i: number) => number;
  stop?: (i: number) => number;
  keep?: (j: number) => boolean;
  bits?: (i: number, j: number) => boolean;
  bias?: (distance: number) => number; // of j − i
  sink?: number | number[];
  seed?: number;
}

export interface Head {
  block: Block;
  nq: number;
  nk: number;
  /** Weight of each cell by the definition; null where masked or padded. */
  expected: (number | null)[][];
}

/** A head of random Q and K and its weights by plain double loops over the definition. */
export function head(options: HeadOptions = {}): Head {
  const { nq = 7, nk = nq, d = 5, scale = d ** -0.5, softcap, start = () => 0, stop = (i: number) => Math.min(nk, i + 1), keep = () => true, bits, bias, sink, seed = 1 } = options;
  const next = gaussian(seed);
  const q = Float32Array.from({ length: nq * d }, next);
  const k = Float32Array.from({ length: nk * d }, next);
  const expected: (number | null)[][] = [];
  const lse: number[] = [];
  for (let i = 0; i < nq; i++) {
    const logits: (number | null)[] = [];
    for (let j = 0; j < nk; j++) {
      let s = 0;
      for (let x = 0; x < d; x++) s += q[i * d + x] * k[j * d + x];
      s *= scale;
      if (softcap !== undefined) s = softcap * Math.tanh(s / softcap);
      if (bias !== undefined) s += Math.fround(bias(j - i));
      logits.push(j >= start(i) && j < stop(i) && keep(j) && (bits?.(i, j) ?? true) ? s : null);
    }
    let sum = logits.reduce<number>((total, s) => total + (s === null ? 0 : Math.exp(s)), 0);
    if (sink !== undefined && sum > 0) sum += Math.exp(typeof sink === "number" ? sink : sink[i]);
    lse.push(Math.log(sum));
    expected.push(logits.map((s) => (s === null ? null : Math.exp(s) / sum)));
  }
  const stride = Math.ceil(nk / 8);
  const packedBits = new Uint8Array(nq * stride);
  for (let i = 0; i < nq; i++) for (let j = 0; j < nk; j++) if (bits?.(i, j)) packedBits[i * stride + (j >> 3)] |= 1 << (j & 7);
  const index = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
  return {
    nq,
    nk,
    expected,
    block: block(
      "qk",
      { part: "decoder", layer: 0, head: 0, scale, softcap: softcap ?? null, exact: true, max_error: 0, n_q: nq, n_k: nk, d },
      {
        q: f32([nq, d], q),
        k: f32([nk, d], k),
        lse: f32s(lse),
        start: i32([nq], index(nq).map(start)),
        stop: i32([nq], index(nq).map(stop)),
        keep: u8([nk], index(nk).map((j) => (keep(j) ? 1 : 0))),
        ...(bits === undefined ? {} : { bits: u8([nq, stride], packedBits) }),
        ...(bias === undefined ? {} : { bias: f32s(index(nq + nk - 1).map((x) => bias(x - (nq - 1)))) }),
        ...(sink === undefined ? {} : { sink: f32s(typeof sink === "number" ? [sink] : sink) }),
      },
    ),
  };
}

/** A "weights" block of numbers ≥ 0, NaN, "masked" and "padded", in 16 bits. */
export function weights(rows: (number | "masked" | "padded")[][], meta: Record<string, unknown> = {}): Block {
  const [r, c] = [rows.length, rows[0]?.length ?? 0];
  const codes = rows.flat().map((p) => (p === "masked" ? 65535 : p === "padded" ? 65534 : Number.isNaN(p) ? 65533 : Math.round(65000 * Math.sqrt(p))));
  return block(
    "weights",
    { part: "decoder", layer: null, head: null, reduce: "mean", rows: [0, r], cols: [0, c], step: [1, 1], n_q: r, n_k: c, vmax: 1, ...meta },
    { hi: u8([r, c], codes.map((v) => v >> 8)), lo: u8([r, c], codes.map((v) => v & 255)) },
  );
}

/** The meta of a bundle with one part of `layers` layers with `heads` heads over `n` tokens. */
export function bundleMetaOf(layers = 2, heads = 2, n = 3): Record<string, unknown> {
  const labels = Array.from({ length: n }, (_, i) => `token ${i}`);
  return {
    title: "TinyModel",
    model: null,
    versions: { attnwidget: "0.1.0" },
    axes: [{ kind: "token", labels, raw: labels, special: [], grid: null }],
    parts: [
      {
        name: "decoder",
        title: "decoder self-attention",
        queries: 0,
        keys: 0,
        causal: true,
        layers: Array.from({ length: layers }, (_, l) => ({ name: `layer.${l}`, heads, kv_heads: heads, window: null })),
        thumb: { rows: n, cols: n, sampled: false },
      },
    ],
    check: { ok: true, max_error: 1e-7, rows: n, text: "The recomputed weights agree with the model." },
    notes: [],
  };
}
