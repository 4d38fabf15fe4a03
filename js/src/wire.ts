/**
 * The bytes and messages that Python and the browser both speak; the twin of `attnwidget/wire.py`.
 *
 * A *block* is a header in words (JSON) and a payload of numbers:
 *
 *     0   4   magic "ATTN"
 *     4   u8  version (1)
 *     5   u8  encoding: 0 raw, 1 zlib
 *     6   u16 zero
 *     8   u32 header length H, a multiple of 8
 *     12  u32 payload length once decoded
 *     16  H   {"kind", "meta", "arrays": [{"name", "dtype", "shape", "offset"}]}
 *     16+H    payload; arrays start at multiples of 8, little-endian, C order
 *
 * Nothing in here trusts the bytes: every length, bound and name is checked, and what is refused is refused in words.
 */

interface Arrays {
  u8: Uint8Array;
  u16: Uint16Array;
  u32: Uint32Array;
  i16: Int16Array;
  i32: Int32Array;
  f32: Float32Array;
}
export type Dtype = keyof Arrays;
export type TypedArray = Arrays[Dtype];

/** A typed view and how to read it: `data` holds the cells of `shape` row by row. */
export interface NdArray<T extends ArrayLike<number> = TypedArray> {
  dtype: Dtype;
  shape: number[];
  data: T;
}

/** Bytes as hosts hand them over. A view may sit anywhere in its buffer, and often does. */
export type Bytes = ArrayBuffer | ArrayBufferView;

export interface Block {
  kind: string;
  meta: Record<string, unknown>;
  arrays: Map<string, NdArray>;
}

/** Data that cannot be read, with a message for the person in front of the screen. */
export class WireError extends Error {
  override readonly name = "WireError";
}

export const damaged = (words: string, what = "data"): WireError => new WireError(`The ${what} are damaged: ${words}`);
const truncated = (words: string): WireError => new WireError(`The data are truncated: ${words}`);
const wrong = (words: string): WireError => new WireError(`The bundle is damaged: ${words}`);

/** What an error says to the person in front of the screen. */
export const wordsOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

// ── blocks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const MAGIC = 0x4e545441; // "ATTN", read as a little-endian u32
const VERSION = 1;
const PREAMBLE = 16; // bytes before the header
const ALIGN = 8;

// Typed arrays read in the byte order of the machine; every machine that runs a browser today is little-endian.
const ARRAYS: Record<Dtype, { readonly BYTES_PER_ELEMENT: number; new (buffer: ArrayBufferLike, byteOffset?: number, length?: number): TypedArray }> = {
  u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, i16: Int16Array, i32: Int32Array, f32: Float32Array,
};

/** Read a block. Arrays are views of `bytes` where its alignment allows that, copies otherwise. */
export async function unpack(bytes: Bytes): Promise<Block> {
  const whole = asBytes(bytes);
  const view = new DataView(whole.buffer, whole.byteOffset, whole.byteLength);
  if (whole.length < 4 || view.getUint32(0, true) !== MAGIC) {
    throw new WireError("This is not attnwidget data: the first bytes are not “ATTN”.");
  }
  if (whole.length < 5) throw truncated("there is nothing after the magic bytes.");
  const version = view.getUint8(4);
  if (version !== VERSION) {
    throw new WireError(`The data were made by another version: format ${version}, this reads ${VERSION}.`);
  }
  if (whole.length < PREAMBLE) {
    throw truncated(`${whole.length} bytes, fewer than the ${PREAMBLE} every block starts with.`);
  }
  const encoding = view.getUint8(5);
  const reserved = view.getUint16(6, true);
  const headerLength = view.getUint32(8, true);
  const payloadLength = view.getUint32(12, true);
  if (encoding > 1 || reserved !== 0) throw damaged(`unknown encoding ${encoding}.`);
  const start = PREAMBLE + headerLength;
  if (start > whole.length) {
    throw truncated(`the header needs ${headerLength} bytes, ${whole.length - PREAMBLE} are there.`);
  }
  if (start % ALIGN !== 0) throw damaged("the header does not end on a multiple of 8 bytes.");

  const header = readHeader(whole.subarray(PREAMBLE, start));
  const stored = whole.subarray(start);
  const payload = encoding === 1 ? await inflated(stored, payloadLength) : stored;
  if (payload.length < payloadLength) {
    throw truncated(`${payload.length} of ${payloadLength} payload bytes are there.`);
  }
  if (payload.length > payloadLength) {
    throw damaged(`${payload.length} payload bytes where the header says ${payloadLength}.`);
  }

  const arrays = new Map<string, NdArray>();
  for (const entry of header.arrays) {
    const { name, array } = readArray(entry, payload);
    if (arrays.has(name)) throw damaged(`two arrays are named “${name}”.`);
    arrays.set(name, array);
  }
  return { kind: header.kind, meta: header.meta, arrays };
}

/**
 * The array `name` of a block, with its type and shape checked (−1 in `shape`: any length).
 * `null` where the block has no such array.
 */
export function findArray<D extends Dtype>(block: Block, name: string, dtype: D, shape: readonly number[]): NdArray<Arrays[D]> | null {
  const array = block.arrays.get(name);
  if (array === undefined) return null;
  const fits = array.dtype === dtype && array.shape.length === shape.length && shape.every((n, axis) => n === -1 || n === array.shape[axis]);
  if (!fits) {
    throw damaged(`“${name}” is ${array.dtype} [${array.shape.join(", ")}], expected ${dtype} [${shape.join(", ").replaceAll("-1", "any")}].`, `“${block.kind}” data`);
  }
  return array as NdArray<Arrays[D]>;
}

/** `findArray`, or an error that names what is missing. */
export function needArray<D extends Dtype>(block: Block, name: string, dtype: D, shape: readonly number[]): NdArray<Arrays[D]> {
  const found = findArray(block, name, dtype, shape);
  if (found === null) throw damaged(`the array “${name}” is missing.`, `“${block.kind}” data`);
  return found;
}

/** The bytes of a binary trait in whatever form the host hands it over (base64 where state is JSON); `null` if it is none. */
export function bytesOf(value: unknown): Uint8Array | null {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return asBytes(value);
  if (typeof value !== "string") return null;
  try {
    const { fromBase64 } = Uint8Array as { fromBase64?: (text: string) => Uint8Array };
    if (fromBase64 !== undefined) return fromBase64.call(Uint8Array, value); // browsers from 2025 on, and ten times as fast
    const text = atob(value);
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at); // a tenth of the time that from() takes
    return bytes;
  } catch {
    throw damaged("they are not base64 text.", "stored data");
  }
}

/** The same memory as bytes. */
export function asBytes(source: Bytes): Uint8Array {
  return ArrayBuffer.isView(source) ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength) : new Uint8Array(source);
}

type Inflate = (stored: Uint8Array, expected: number) => Uint8Array;

/** What unpacks where the browser does not: pages bring it along, notebooks do without. */
export const own: { inflate: Inflate } = {
  inflate: () => { throw new WireError("This browser cannot unpack the data (it has no DecompressionStream). Any browser from 2023 on can."); },
};

const MOST = 2 ** 29; // bytes of one block
const RATIO = 1032; // bytes that deflate can make of one

async function inflated(stored: Uint8Array, expected: number): Promise<Uint8Array> {
  if (expected > Math.min(MOST, RATIO * stored.length)) {
    throw new WireError(`The data are truncated or damaged: ${expected} bytes cannot be packed into ${stored.length}.`);
  }
  const pieces: Uint8Array[] = [];
  let total = 0;
  try {
    if (typeof DecompressionStream === "undefined") return own.inflate(stored, expected);
    const reader = new Blob([stored.slice()]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      total += value.length;
      if (total <= expected) continue;
      reader.cancel().catch(() => undefined); // never unpack more than was announced
      break;
    }
  } catch (error) {
    if (error instanceof WireError) throw error;
    throw new WireError(`The data are truncated or damaged: the compressed payload stops making sense within its ${expected} bytes.`);
  }
  return concatenate(pieces, total);
}

/** All pieces in order, as one array of `total` bytes. */
export function concatenate(pieces: readonly Uint8Array[], total: number): Uint8Array {
  const [only] = pieces;
  if (pieces.length === 1 && only !== undefined) return only;
  const joined = new Uint8Array(total);
  let at = 0;
  for (const piece of pieces) {
    joined.set(piece, at);
    at += piece.length;
  }
  return joined;
}

function readHeader(bytes: Uint8Array): { kind: string; meta: Record<string, unknown>; arrays: unknown[] } {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw damaged("the header is not readable JSON.");
  }
  if (!isRecord(header) || !isText(header["kind"]) || !isRecord(header["meta"]) || !Array.isArray(header["arrays"])) {
    throw damaged("the header names no kind, meta and arrays.");
  }
  return { kind: header["kind"], meta: header["meta"], arrays: header["arrays"] };
}

function readArray(entry: unknown, payload: Uint8Array): { name: string; array: NdArray } {
  if (!isRecord(entry) || !isText(entry["name"])) throw damaged("an array has no name.");
  const { name, dtype, shape, offset } = entry;
  if (!isDtype(dtype)) throw damaged(`“${name}” has the unknown number type “${String(dtype)}”.`);
  if (!Array.isArray(shape) || !shape.every(isCount)) throw damaged(`“${name}” has no readable shape.`);
  if (!isCount(offset) || offset % ALIGN !== 0) throw damaged(`“${name}” does not start on a multiple of 8 bytes.`);
  const Cells = ARRAYS[dtype];
  const cells = shape.reduce((product: number, n: number) => product * n, 1);
  const end = offset + cells * Cells.BYTES_PER_ELEMENT;
  if (end > payload.length) throw damaged(`“${name}” needs bytes ${offset} to ${end} of a payload of ${payload.length}.`);
  const at = payload.byteOffset + offset;
  const data = at % Cells.BYTES_PER_ELEMENT === 0 ? new Cells(payload.buffer, at, cells) : new Cells(payload.slice(offset, end).buffer);
  return { name, array: { dtype, shape, data } };
}

function isDtype(value: unknown): value is Dtype {
  return typeof value === "string" && Object.hasOwn(ARRAYS, value);
}

/** Whether `value` is a whole number from 0 up. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** Whether `value` is a plain object (what JSON calls one). */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// ── cells ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * What a cell of a decoded map can be: a weight (below 0 only where two maps are subtracted), NaN, or one of these two
 * codes, further down than any sum of weights gets. They are ordered so that the maximum of a group of cells is also its
 * pooled cell: weight > masked > padded.
 */
export const MASKED = -(2 ** 20);
export const PADDED = -(2 ** 21);

const ROOTS = 65000; // largest weight code of a u16 cell
const tables = new Map<number, Float32Array>();

/** Weight of each of the 256 codes of a thumbnail cell: vmax·(v/250)², or MASKED, PADDED, NaN. */
export function thumbTable(vmax: number): Float32Array {
  return Float32Array.from({ length: 256 }, (_, v) => (v <= 250 ? vmax * (v / 250) ** 2 : v === 255 ? MASKED : v === 254 ? PADDED : NaN));
}

/** Weight of each of the 65 536 codes hi·256 + lo: vmax·(v/65000)², or MASKED, PADDED, NaN. 256 kB, kept for `vmax` 1. */
export function weightTable(vmax: number): Float32Array {
  const kept = tables.get(vmax);
  if (kept !== undefined) return kept;
  const table = new Float32Array(65536).fill(NaN);
  for (let v = 0; v <= ROOTS; v++) table[v] = vmax * (v / ROOTS) ** 2;
  table[65534] = PADDED;
  table[65535] = MASKED;
  if (vmax === 1) tables.set(vmax, table);
  return table;
}

// ── the bundle ──────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * One side of a map: `labels` are shown, `raw` is what the tokenizer said. `special`, `generated`, `image` and
 * `punctuation` are indices, ascending; the other lists hold a number for every token, −1 for special ones.
 */
export interface Axis {
  kind: string;
  labels: string[];
  raw: string[];
  special: number[];
  /** Tokens that the model produced. */
  generated: number[];
  /** Placeholders that stand for an image in a text. */
  image: number[];
  punctuation: number[];
  /** Which text of a pair. */
  segments: number[] | null;
  words: number[] | null;
  sentences: number[] | null;
  /** Rows × columns of an image. */
  grid: [number, number] | null;
  /** Which token is the patch in the upper left corner; `null` where the patches are the placeholders in `image`, or there are none. */
  first_patch: number | null;
  /** The array of the bundle that holds the image itself, as a block of kind "picture". */
  picture: string | null;
  /**
   * What stands in the text before each token and belongs to none: spaces, line breaks. `null` where there is no text. A token
   * that is itself a line break has no place for it here: its label shows ⏎, and a text breaks the line behind that.
   */
  before: string[] | null;
}

export interface LayerInfo {
  name: string;
  /** 0 where the layer has no attention, or it was not kept: `absent` says which. */
  heads: number;
  kv_heads: number;
  window: number | null;
  absent: string | null;
}

/** One stack of attention layers; `queries` and `keys` are indices into `axes`. */
export interface PartInfo {
  name: string;
  title: string;
  queries: number;
  keys: number;
  causal: boolean;
  layers: LayerInfo[];
  thumb: { rows: number; cols: number; sampled: boolean };
  /** One number per head, for whoever wants to sort by it. */
  measures: Measure[];
  /** Where two attentions are compared: which token of each stands at a place of the axes, −1 where it has none there. */
  aligned: Aligned | null;
}

/** A number for each head, [layer][head]; `null` where there is none. */
export interface Measure {
  name: string;
  /** What it is, with its unit. */
  title: string;
  values: (number | null)[][];
}

/** Of each place of the common axes, the token of one side and the token of the other; −1 where a side has none. */
export interface Aligned {
  queries: readonly [a: number[], b: number[]];
  keys: readonly [a: number[], b: number[]];
}

/** What came of comparing the recomputed weights with the model's own. */
export interface Check {
  ok: boolean;
  max_error: number;
  rows: number;
  text: string;
}

/** Which one of several texts, images … a bundle shows. */
export interface Samples {
  count: number;
  at: number;
  noun: string;
}

export interface BundleMeta {
  title: string;
  model: string | null;
  samples: Samples;
  axes: Axis[];
  parts: PartInfo[];
  check: Check | null;
  notes: string[];
  versions: Record<string, string>;
  /** The number that came out that effects are effects on, and what it was; `null` where there is none. */
  objective: { words: string; value: number } | null;
  /** What the two sides of a comparison are called; `null` where there is one attention only. */
  sides: readonly [a: string, b: string] | null;
}

const MOST_HEADS = 4096; // of a layer; no data need stand behind that number, and all of them are drawn

/** The meta of a "bundle" block, checked field by field. */
export function bundleMeta(block: Block): BundleMeta {
  if (block.kind !== "bundle") throw new WireError(`These data are of the kind “${block.kind}”, not a bundle to show.`);
  const meta = new JsonObject(block.meta, "bundle");
  const axes = meta.records("axes").map((axis): Axis => {
    const labels = axis.texts("labels");
    const grid = axis.value("grid");
    const places = (name: string): number[] =>
      axis.lacks(name) ? [] : [...new Set(axis.counts(name))].filter((index) => index < labels.length).sort((a, b) => a - b);
    return {
      kind: axis.text("kind"),
      labels,
      raw: axis.value("raw") === undefined ? labels : axis.texts("raw"),
      special: axis.counts("special").filter((index) => index < labels.length),
      generated: places("generated"),
      image: places("image"),
      punctuation: places("punctuation"),
      segments: axis.groups("segments", labels.length),
      words: axis.groups("words", labels.length),
      sentences: axis.groups("sentences", labels.length),
      grid: Array.isArray(grid) && isCount(grid[0]) && isCount(grid[1]) && grid[0] * grid[1] <= labels.length ? [grid[0], grid[1]] : null,
      first_patch: axis.lacks("first_patch") ? null : axis.count("first_patch"),
      picture: axis.lacks("picture") ? null : axis.text("picture"),
      before: axis.lacks("before") || axis.texts("before").length !== labels.length ? null : axis.texts("before"),
    };
  });
  const parts = meta.records("parts").map((part): PartInfo => {
    const thumb = part.record("thumb");
    const queries = part.count("queries");
    const keys = part.count("keys");
    if (queries >= axes.length || keys >= axes.length) throw wrong(`part “${part.text("name")}” has no axis.`);
    return {
      name: part.text("name"),
      title: part.text("title"),
      queries,
      keys,
      causal: part.value("causal") === true,
      layers: part.records("layers").map((layer): LayerInfo => {
        const [window, heads] = [layer.value("window"), layer.count("heads")];
        if (heads > MOST_HEADS) layer.refuse("heads", `at most ${MOST_HEADS}`);
        const absent = heads > 0 ? null : layer.lacks("absent") ? "no attention" : layer.text("absent");
        return { name: layer.text("name"), heads, kv_heads: layer.count("kv_heads"), window: isCount(window) ? window : null, absent };
      }),
      thumb: { rows: thumb.count("rows"), cols: thumb.count("cols"), sampled: thumb.value("sampled") === true },
      measures: part.lacks("measures") ? [] : part.records("measures").map(readMeasure),
      aligned: part.lacks("aligned") ? null : readAligned(part.record("aligned"), axes[queries].labels.length, axes[keys].labels.length),
    };
  });
  if (parts.length === 0) throw new WireError("There is nothing to show: the bundle holds no attention.");
  const model = meta.value("model");
  const versions = meta.value("versions");
  const sides = meta.lacks("sides") ? [] : meta.texts("sides");
  return {
    title: meta.text("title"),
    model: isText(model) ? model : null,
    samples: meta.lacks("samples") ? { count: 1, at: 0, noun: "text" } : readSamples(meta.record("samples")),
    axes,
    parts,
    check: readCheck(meta),
    notes: meta.value("notes") === undefined ? [] : meta.texts("notes"),
    versions: isRecord(versions) ? Object.fromEntries(Object.entries(versions).filter((entry): entry is [string, string] => isText(entry[1]))) : {},
    objective: meta.lacks("objective") ? null : readObjective(meta.record("objective")),
    sides: sides.length === 2 ? [sides[0], sides[1]] : null,
  };
}

/** What a block that answers "measures/<part>" holds. */
export const measuresOf = ({ meta, kind }: Block): Measure[] => new JsonObject(meta, kind).records("measures").map(readMeasure);

function readMeasure(measure: JsonObject): Measure {
  const rows = measure.value("values");
  const values = (Array.isArray(rows) ? rows : []).map((row: unknown) => (Array.isArray(row) ? row : []).map((value: unknown) => (typeof value === "number" ? value : null)));
  return { name: measure.text("name"), title: measure.text("title"), values };
}

function readAligned(aligned: JsonObject, queries: number, keys: number): Aligned {
  const places = (name: string, n: number): number[] => aligned.groups(name, n) ?? aligned.refuse(name, "a list of places");
  return { queries: [places("queries_a", queries), places("queries_b", queries)], keys: [places("keys_a", keys), places("keys_b", keys)] };
}

function readSamples(samples: JsonObject): Samples {
  const [count, at] = [samples.count("count"), samples.count("at")];
  if (at >= count) throw wrong(`it shows sample ${at} of ${count}.`);
  return { count, at, noun: samples.text("noun") };
}

const readObjective = (objective: JsonObject): BundleMeta["objective"] => ({ words: objective.text("words"), value: Number(objective.value("value")) });

function readCheck(meta: JsonObject): Check | null {
  if (!isRecord(meta.value("check"))) return null;
  const check = meta.record("check");
  const error = check.value("max_error");
  return { ok: check.value("ok") === true, max_error: typeof error === "number" ? error : NaN, rows: check.count("rows"), text: check.text("text") };
}

export const isText = (value: unknown): value is string => typeof value === "string";
const isGroup = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= -1;
const listOf = <T>(is: (value: unknown) => value is T) => (value: unknown): value is T[] => Array.isArray(value) && value.every(is);

/** A JSON object whose fields are read by type, with the path in the error. */
class JsonObject {
  constructor(
    private readonly fields: Record<string, unknown>,
    private readonly path: string,
  ) {}

  value(name: string): unknown {
    return this.fields[name];
  }

  /** Bundles of earlier versions lack fields. */
  lacks(name: string): boolean {
    return this.fields[name] === undefined || this.fields[name] === null;
  }

  #read<T>(name: string, is: (value: unknown) => value is T, wanted: string): T {
    const value = this.fields[name];
    return is(value) ? value : this.refuse(name, wanted);
  }

  text(name: string): string {
    return this.#read(name, isText, "text");
  }

  count(name: string): number {
    return this.#read(name, isCount, "a whole number");
  }

  texts(name: string): string[] {
    return this.#read(name, listOf(isText), "a list of texts");
  }

  counts(name: string): number[] {
    return this.#read(name, listOf(isCount), "a list of whole numbers");
  }

  /** A group for each of `n` tokens, from −1; `null` where there are none. */
  groups(name: string, n: number): number[] | null {
    const isGroups = (value: unknown): value is number[] => listOf(isGroup)(value) && value.length === n;
    return this.lacks(name) ? null : this.#read(name, isGroups, `a list of ${n} groups`);
  }

  record(name: string): JsonObject {
    return new JsonObject(this.#read(name, isRecord, "an object"), `${this.path}.${name}`);
  }

  records(name: string): JsonObject[] {
    this.#read(name, Array.isArray, "a list");
    return this.#read(name, listOf(isRecord), "a list of objects").map((item, i) => new JsonObject(item, `${this.path}.${name}[${i}]`));
  }

  refuse(name: string, wanted: string): never {
    throw wrong(`${this.path}.${name} is not ${wanted}.`);
  }
}

// ── names of maps, and messages ─────────────────────────────────────────────────────────────────────────────────────

export type Reduce = "mean" | "max" | "min";

/** A head by its numbers. */
export type HeadAt = readonly [layer: number, head: number];

/** Which map is looked at. `layer` or `head` null: reduced over that axis. `heads`, where there are any: reduced over these. */
export interface Selection {
  part: string;
  layer: number | null;
  head: number | null;
  reduce: Reduce;
  heads?: readonly HeadAt[];
}

/** Heads in keys, the chosen ones or those of a selection: "5.3", "5.*", "1.0,2.3". */
export const headsKey = ({ layer, head, heads = [] }: Pick<Selection, "layer" | "head" | "heads">): string =>
  (heads.length > 0 ? heads : [[layer, head]]).map((pair) => pair.map((at) => at ?? "*").join(".")).join();

// "decoder/5/3" for one head; "decoder/5/*/mean" for a reduced map.
export function mapKey(selection: Selection): string {
  const { part, layer, head, reduce, heads = [] } = selection;
  if (heads.length > 0) return `${part}/${headsKey(selection)}/${reduce}`; // of no single stored map
  const key = `${part}/${layer ?? "*"}/${head ?? "*"}`;
  return layer !== null && head !== null ? key : `${key}/${reduce}`;
}

/** The opposite of `mapKey`; `null` for what is no such key. A single head comes back with `reduce` "mean". */
export function selectionOf(key: string): Selection | null {
  const [, part, layer, head, reduce] = /^(.*)\/(\d+|\*)\/(\d+|\*)(?:\/(mean|max|min))?$/s.exec(key) ?? [];
  if (part === undefined || layer === undefined || head === undefined) return null;
  if ((reduce === undefined) !== (layer !== "*" && head !== "*")) return null;
  return {
    part,
    layer: layer === "*" ? null : Number(layer),
    head: head === "*" ? null : Number(head),
    reduce: (reduce as Reduce | undefined) ?? "mean",
  };
}

export type Want = "map" | "row" | "column" | "steps" | "measures" | "effects" | "verified" | "figure";

export interface Request extends Omit<Selection, "heads"> {
  id: number;
  want: Want;
  index: number | null;
  /** Of effects: by way of which heads, `null` for all; of what is verified, also which edge, `null` for all of them. */
  heads?: readonly (readonly (number | null)[])[];
  query?: number | null;
  key?: number | null;
  /** Of a figure: "svg", "pdf" or "png", and millimetres. */
  format?: string;
  width?: number;
  exact: boolean;
  sample: number;
  /** Of a comparison; "a" where it is left out. */
  side?: "a" | "b";
}

/** Browser → kernel. */
export type Question = { type: "get"; requests: Request[] } | { type: "cancel"; ids: number[] };

/** Kernel → browser: for each request one error, or `chunks` of these with one buffer each. */
export type Reply = { type: "block"; id: number; chunk: number; chunks: number } | { type: "error"; id: number; message: string };

/** A message from the kernel if it is one of ours, else `null`. */
export function replyOf(content: unknown): Reply | null {
  if (!isRecord(content) || !isCount(content["id"])) return null;
  const { type, id, chunk, chunks, message } = content;
  if (type === "error") return { type, id, message: typeof message === "string" ? message : "The kernel could not answer." };
  if (type !== "block") return null;
  if (isCount(chunk) && isCount(chunks) && chunk < chunks) return { type, id, chunk, chunks };
  return { type: "error", id, message: "The kernel sent an answer that this page does not understand." };
}
