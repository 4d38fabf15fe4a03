/**
 * Where maps come from. One interface, `get(key)`, which the bundle, the kernel, a cache and any chain of them satisfy, so
 * that whoever asks cannot tell a running kernel from a page on a stick.
 *
 * Keys: "map/<map key>", "row/<map key>/<i>", "column/<map key>/<j>" (map keys: see wire.ts), "thumbs/<part>",
 * "steps/<part>/<layer>/<head>" (what is behind one head, vector by vector), "measures/<part>" (numbers per head), "effects/<part>/<heads>" (what edges do
 * to the objective, to first order), "verified/<part>/<heads>/<query>/<key>" (what changes without them), "*" for all, and
 * "figure/<format>/<millimetres>/<anything>" (a file that shows what Python has selected; whatever follows keeps two apart).
 */

import type { WeightMap } from "./math.ts";
import { cellsOf, weightMap } from "./math.ts";
import { atEnd } from "./until.ts";
import type { Block, BundleMeta, Bytes, Question, Request, Selection, Want } from "./wire.ts";
import { asBytes, bundleMeta, concatenate, mapKey, replyOf, selectionOf, unpack, WireError } from "./wire.ts";

export interface GetOptions {
  signal?: AbortSignal;
}

export interface TileSource {
  /** The block behind a key; rejects with an Error whose message can be shown as it is, or with the signal's reason. */
  get(key: string, options?: GetOptions): Promise<Block>;
}

/** Everything the views ask for. */
export interface Tiles extends TileSource {
  readonly meta: BundleMeta;
  /** Whether there is a kernel to ask. Turns false when a message could not be sent. */
  readonly live: boolean;
  /** Whether the key can be served without a kernel. */
  has(key: string): boolean;
  map(selection: Selection, signal?: AbortSignal): Promise<WeightMap>;
  /** Exact row of query `i`, [n_k]: from the map, or asked for where the map is stored pooled. */
  row(selection: Selection, i: number, signal?: AbortSignal): Promise<Float32Array>;
  /** Exact column of key `j`, [n_q]. */
  column(selection: Selection, j: number, signal?: AbortSignal): Promise<Float32Array>;
  /** Of a comparison: the attention that is taken from this one. */
  readonly other: Tiles | null;
}

/** What a host must offer for a kernel to be asked. */
export interface Transport {
  /** May throw where the host has no kernel. */
  send(content: unknown): void;
  onMessage(listener: (content: unknown, buffers: readonly Bytes[]) => void, signal: AbortSignal): void;
  /** Aborts when the kernel is gone: what was asked is answered no more, and `send` throws from then on. */
  readonly gone?: AbortSignal;
}

/** A key that this source has nothing for; another source may. */
export class MissingError extends Error {
  override readonly name = "MissingError";
}

/**
 * Opens a bundle, or the one in it that holds `sample`, backed by the kernel where there is one. Where that sample is not
 * stored, `meta.samples.at` tells which one is open instead. `signal` ends all that is under way.
 */
export async function openTiles(bytes: Bytes, transport: Transport | null, signal: AbortSignal, sample?: number): Promise<Tiles> {
  const outer = await unpack(bytes);
  return tilesOf(...(await sampleIn(outer, bundleMeta(outer), sample)), transport, signal, "a");
}

const OTHER = "other"; // the whole bundle of the other side of a comparison, inside that of the first

async function tilesOf(bundle: Block, meta: BundleMeta, transport: Transport | null, signal: AbortSignal, side: "a" | "b"): Promise<Tiles> {
  const stored = bundleSource(bundle);
  const inner = side === "a" && meta.sides !== null ? await stored.get(OTHER) : null;
  const other = inner === null ? null : await tilesOf(inner, bundleMeta(inner), transport, signal, "b");
  const kernel = transport === null ? null : kernelSource(transport, { signal, sample: meta.samples.at, side });
  const source = cached(kernel === null ? stored : firstOf(stored, kernel), CACHE_BYTES);
  const maps = new WeakMap<Block, WeightMap>();

  const map = async (selection: Selection, mapSignal?: AbortSignal): Promise<WeightMap> => {
    const block = await source.get(`map/${mapKey(selection)}`, mapSignal && { signal: mapSignal });
    const known = maps.get(block) ?? weightMap(block);
    maps.set(block, known);
    return known;
  };
  const line = async (want: "row" | "column", selection: Selection, index: number, lineSignal?: AbortSignal): Promise<Float32Array> => {
    const whole = await map(selection, lineSignal);
    const cells = want === "row" ? whole.row(index) : whole.column(index);
    return cells ?? cellsOf(await source.get(`${want}/${mapKey(selection)}/${index}`, lineSignal && { signal: lineSignal }));
  };
  return {
    meta,
    map,
    get: (key, options) => source.get(key, options),
    has: (key) => stored.has(key),
    row: (selection, i, rowSignal) => line("row", selection, i, rowSignal),
    column: (selection, j, columnSignal) => line("column", selection, j, columnSignal),
    other,
    get live() {
      return kernel?.live ?? false;
    },
  };
}

const CACHE_BYTES = 64 * 2 ** 20;

async function sampleIn(outer: Block, meta: BundleMeta, sample = meta.samples.at): Promise<[Block, BundleMeta]> {
  const key = `sample/${sample}`;
  if (sample === meta.samples.at || !outer.arrays.has(key)) return [outer, meta];
  const inner = await bundleSource(outer).get(key);
  const found = bundleMeta(inner);
  if (found.samples.at !== sample) throw new WireError(`The bundle is damaged: “${key}” holds sample ${found.samples.at}.`);
  return [inner, { ...found, samples: { ...meta.samples, at: sample } }];
}

// ── the bundle ──────────────────────────────────────────────────────────────────────────────────────────────────────

export interface BundleSource extends TileSource {
  has(key: string): boolean;
}

/** Serves what is stored in a bundle: each of its arrays is a packed block of its own. */
export function bundleSource(bundle: Block): BundleSource {
  return {
    has: (key) => bundle.arrays.has(key),
    async get(key, options) {
      options?.signal?.throwIfAborted();
      const nested = bundle.arrays.get(key);
      if (nested === undefined) throw new MissingError(missingWords(key));
      if (!(nested.data instanceof Uint8Array)) throw new WireError(`The bundle is damaged: “${key}” does not hold bytes.`);
      const block = await unpack(nested.data);
      options?.signal?.throwIfAborted();
      return block;
    },
  };
}

function missingWords(key: string): string {
  if (key.startsWith("thumbs/")) return "There are no thumbnails of this part in this page.";
  if (key.startsWith("steps/")) return "The vectors behind this head are not stored in this page. Open the notebook to see them, or export with this head and view=\"steps\" chosen.";
  if (key.startsWith("measures/")) return "There are no numbers about the heads in this page.";
  if (key.startsWith("effects/")) return "Effects of this head are not stored in this page: export with it chosen and effects=True.";
  if (key.startsWith("verified/")) return "Verifying runs the model: open the notebook.";
  if (!key.startsWith("map/")) return "This row or column is not stored in this page: its map is stored pooled. Open the notebook to see it exactly.";
  const what = key.includes("/*") ? "This view over several heads" : "This head";
  return `${what} is not stored in this page. A larger budget would include it.`;
}

// ── the kernel ──────────────────────────────────────────────────────────────────────────────────────────────────────

export interface KernelSource extends TileSource {
  readonly live: boolean;
}

export interface KernelOptions {
  /** Ask for f32 instead of compact numbers. */
  exact?: boolean;
  /** Whose maps to ask for. */
  sample?: number;
  side?: "a" | "b";
  /** Ends the source: what is under way is cancelled and rejected. */
  signal?: AbortSignal;
  /** When to send what has gathered; the next animation frame by default. */
  schedule?: (flush: () => void) => void;
}

interface Pending {
  request: Request;
  sent: boolean;
  chunks: Uint8Array[]; // at the place of their number
  arrived: number;
  resolve: (block: Block | Promise<Block>) => void;
  reject: (reason: unknown) => void;
}

/**
 * Asks the kernel. All that is asked within one animation frame travels as one message; what is no longer wanted is
 * cancelled; an answer comes as chunks, or as an error in words. Nothing times out, since a kernel may be busy for an hour.
 */
export function kernelSource(transport: Transport, { exact = false, sample = 0, side = "a", signal, schedule = nextFrame }: KernelOptions = {}): KernelSource {
  const pending = new Map<number, Pending>();
  const cancelled: number[] = [];
  // Every view of a widget hears every reply, so two views must not count alike. Below 2⁵³, as JSON numbers must be.
  let id = Math.floor(Math.random() * 2 ** 32) * 2 ** 20;
  let scheduled = false;
  let live = true;

  const fail = (failed: Iterable<Pending>, reason: unknown): void => {
    for (const one of [...failed]) {
      pending.delete(one.request.id);
      one.reject(reason);
    }
  };
  const end = (asked: Iterable<Pending>): void => {
    live = false;
    fail(asked, new MissingError("This is not stored here and there is no kernel to ask. Run the cell again to see it."));
  };
  const send = (question: Question, asked: Pending[]): void => {
    try {
      transport.send(question);
      for (const one of asked) one.sent = true;
    } catch {
      end(asked);
    }
  };
  const flush = (): void => {
    scheduled = false;
    const asked = [...pending.values()].filter((one) => !one.sent);
    if (cancelled.length > 0) send({ type: "cancel", ids: cancelled.splice(0) }, []);
    if (asked.length > 0) send({ type: "get", requests: asked.map((one) => one.request) }, asked);
  };
  const soon = (): void => {
    if (scheduled) return;
    scheduled = true;
    schedule(flush);
  };
  const hear = (content: unknown, buffers: readonly Bytes[]): void => {
    const reply = replyOf(content);
    const one = reply === null ? undefined : pending.get(reply.id);
    if (!reply || !one) return; // not ours, or no longer wanted
    if (reply.type === "error") {
      fail([one], new Error(reply.message));
      return;
    }
    const [buffer] = buffers;
    if (buffer === undefined || reply.chunk in one.chunks) {
      fail([one], new WireError("The answer of the kernel is damaged: a piece of it is missing or came twice."));
      return;
    }
    one.chunks[reply.chunk] = asBytes(buffer);
    if (++one.arrived < reply.chunks) return;
    pending.delete(reply.id);
    const total = one.chunks.reduce((bytes, chunk) => bytes + chunk.length, 0);
    one.resolve(unpack(concatenate(one.chunks, total)));
  };

  transport.onMessage(hear, signal ?? new AbortController().signal);
  transport.gone?.addEventListener("abort", () => { end(pending.values()); }, signal && { signal });
  signal?.addEventListener(
    "abort",
    () => {
      cancelled.push(...[...pending.values()].filter((one) => one.sent).map((one) => one.request.id));
      fail(pending.values(), signal.reason);
      flush();
    },
    { once: true },
  );

  return {
    get live() {
      return live;
    },
    get(key, options) {
      const question = questionOf(key);
      if (question === null) return Promise.reject(new MissingError(missingWords(key)));
      return new Promise<Block>((resolve, reject) => {
        signal?.throwIfAborted();
        options?.signal?.throwIfAborted();
        const request: Request = { id: ++id, ...question, exact, sample, ...(side === "b" ? { side } : {}) };
        const stop = new AbortController(); // takes our listener off the caller's signal
        const done = <T>(settle: (value: T) => void) => (value: T) => {
          stop.abort();
          settle(value);
        };
        const one: Pending = {
          request,
          sent: false,
          chunks: [],
          arrived: 0,
          resolve: done(resolve),
          reject: done(reject),
        };
        const abandon = (): void => {
          if (one.sent) {
            cancelled.push(request.id);
            soon();
          }
          fail([one], options?.signal?.reason);
        };
        options?.signal?.addEventListener("abort", abandon, { signal: stop.signal });
        pending.set(request.id, one);
        soon();
      });
    },
  };
}

/** What a key asks of the kernel; `null` where the kernel is not the one to ask (thumbnails travel in the bundle). */
function questionOf(key: string): Omit<Request, "id" | "exact" | "sample"> | null {
  const whole = { layer: null, head: null, reduce: "mean", index: null } as const;
  const [, what, part, layer, head] = /^(?:(steps)\/(.*)\/(\d+)\/(\d+))$/s.exec(key) ?? [];
  if (what !== undefined) return { ...whole, want: "steps", part, layer: Number(layer), head: Number(head) };
  if (key.startsWith("measures/")) return { ...whole, want: "measures", part: key.slice(9) };
  const [, format, width] = /^figure\/(\w+)\/([\d.]+)\//.exec(key) ?? [];
  if (format !== undefined) return { ...whole, want: "figure", part: "", format, width: Number(width) };
  const [, effect, of, heads, asking, asked] = /^(effects|verified)\/(.*?)\/([\d*]+\.[^/]+)(?:\/(\d+|\*)\/(\d+|\*))?$/s.exec(key) ?? [];
  const at = (text = "*"): number | null => (text === "*" ? null : Number(text));
  if (effect !== undefined) return { ...whole, want: effect as Want, part: of, heads: heads.split(",").map((pair) => pair.split(".").map(at)), query: at(asking), key: at(asked) };
  const [, name, line, lineName, index] = /^(?:map\/(.*)|(row|column)\/(.*)\/(\d+))$/s.exec(key) ?? [];
  const selection = selectionOf(name ?? lineName ?? "");
  if (selection === null) return null;
  return line === undefined ? { want: "map", ...selection, index: null } : { want: line as Want, ...selection, index: Number(index) };
}

/** The next animation frame, or soon after where none come (hidden tabs, no window). */
function nextFrame(flush: () => void): void {
  if (typeof requestAnimationFrame === "undefined") {
    setTimeout(flush, 0);
    return;
  }
  let done = false;
  const once = (): void => {
    if (!done) flush();
    done = true;
  };
  requestAnimationFrame(once);
  setTimeout(once, 100);
}

// ── chains and caches ───────────────────────────────────────────────────────────────────────────────────────────────

/** The first source that can serve a key. If none can, the error is that of the last one that tried. */
export function firstOf(...sources: TileSource[]): TileSource {
  return {
    async get(key, options) {
      let reason: unknown = new MissingError(missingWords(key));
      for (const source of sources) {
        try {
          return await source.get(key, options);
        } catch (error) {
          options?.signal?.throwIfAborted();
          reason = error;
        }
      }
      throw reason;
    },
  };
}

interface Flight {
  block: Promise<Block>;
  waiting: number;
  abort: () => void;
}

/**
 * Keeps the blocks used last, up to `maxBytes`, and lets callers that want the same key share one request: it is given up
 * only when the last of them has given up. Errors are not kept.
 */
export function cached(source: TileSource, maxBytes: number): TileSource {
  const kept = new Map<string, Block>(); // oldest use first
  const flights = new Map<string, Flight>();
  let bytes = 0;

  const keep = (key: string, block: Block): void => {
    const size = sizeOf(block);
    if (size > maxBytes || kept.has(key)) return;
    kept.set(key, block);
    bytes += size;
    for (const [oldest, old] of kept) {
      if (bytes <= maxBytes) break;
      kept.delete(oldest);
      bytes -= sizeOf(old);
    }
  };
  const depart = (key: string): Flight => {
    const controller = new AbortController();
    const flight: Flight = { waiting: 0, abort: () => controller.abort(), block: source.get(key, { signal: controller.signal }) };
    const landed = (): void => {
      if (flights.get(key) === flight) flights.delete(key);
    };
    flights.set(key, flight);
    flight.block.then(
      (block) => {
        landed();
        keep(key, block);
      },
      landed,
    );
    return flight;
  };

  return {
    get(key, options) {
      const signal = options?.signal;
      if (signal?.aborted) return Promise.reject(signal.reason as Error);
      const found = kept.get(key);
      if (found !== undefined) {
        kept.delete(key);
        kept.set(key, found);
        return Promise.resolve(found);
      }
      const flight = flights.get(key) ?? depart(key);
      flight.waiting++;
      if (signal === undefined) return flight.block;
      return new Promise((resolve, reject) => {
        const leave = (): void => {
          if (--flight.waiting === 0) {
            flights.delete(key); // who asks from now on gets a new request
            flight.abort();
          }
          reject(signal.reason as Error);
        };
        atEnd(signal, leave);
        const done = (): void => signal.removeEventListener("abort", leave);
        flight.block.finally(done).then(resolve, reject);
      });
    },
  };
}

function sizeOf(block: Block): number {
  let bytes = 0;
  for (const array of block.arrays.values()) bytes += array.data.byteLength;
  return bytes;
}
