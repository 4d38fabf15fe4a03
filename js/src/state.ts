/**
 * What is being looked at: one small store that the views read and write, and the only place that knows how hosts differ.
 *
 * Field names are those of the Python traits. `hover`, `map` and `notice` are local.
 */

import type { WeightMap } from "./math.ts";
import type { Tiles, Transport } from "./tiles.ts";
import { atEnd } from "./until.ts";
import type { Axis, Bytes, Reduce, Selection } from "./wire.ts";
import { damaged, isCount, isRecord, mapKey, WireError } from "./wire.ts";

export type { Reduce, Selection };

export interface Hover {
  query: number | null;
  key: number | null;
}

/** A map and what it is a map of. */
export interface Shown {
  map: WeightMap;
  selection: Selection;
}

/** While one map loads, or where it cannot be had, the `previous` one stays on screen. `since` is performance.now(). */
export type MapState =
  | { status: "loading"; since: number; previous: Shown | null }
  | ({ status: "ready" } & Shown)
  | { status: "error"; message: string; previous: Shown | null };

/** The synced traits. */
export interface Traits extends Selection {
  query: number | null;
  pinned: readonly number[];
  view: "arcs" | "heatmap";
  scale: "linear" | "sqrt" | "log" | "uniform";
  threshold: number;
  theme: "auto" | "light" | "dark";
  /** Which of several texts, images … */
  sample: number;
  /** 1 … the number of generated tokens: that one is being produced, and later ones are not there yet. `null`: all are. */
  step: number | null;
}

/** Why the sample that is chosen is not the one on screen; `missing` where waiting does not help. */
export interface Notice {
  words: string;
  missing: boolean;
}

export interface Fields extends Traits {
  hover: Hover | null;
  map: MapState;
  notice: Notice | null;
}

export type Name = keyof Fields;

/** What every view is given. */
export interface ViewContext {
  el: HTMLElement;
  state: State;
  tiles: Tiles;
  signal: AbortSignal;
}

export type View = (context: ViewContext) => void;

// ── the store ───────────────────────────────────────────────────────────────────────────────────────────────────────

const DEFAULTS: Fields = {
  part: "",
  layer: null,
  head: null,
  reduce: "mean",
  query: null,
  pinned: [],
  view: "arcs",
  scale: "sqrt",
  threshold: 0.9,
  theme: "auto",
  sample: 0,
  step: null,
  hover: null,
  map: { status: "loading", since: 0, previous: null },
  notice: null,
};

export class State {
  readonly #fields: Fields;
  readonly #listeners = new Map<Name, Set<() => void>>();
  #committed: ((patch: Partial<Traits>) => void) | null = null;

  constructor(initial: Partial<Fields> = {}) {
    this.#fields = { ...DEFAULTS, ...initial };
  }

  get<K extends Name>(name: K): Fields[K] {
    return this.#fields[name];
  }

  /**
   * Changes fields, then calls each listener of a changed one once. With `commit` (the default) synced fields go to Python;
   * without it they stay here until they are committed (a slider that is still being dragged).
   */
  set(patch: Partial<Fields>, { commit = true }: { commit?: boolean } = {}): void {
    const changed = new Set<() => void>();
    for (const name of Object.keys(patch) as Name[]) {
      if (!same(this.#fields[name], patch[name])) for (const listener of this.#listeners.get(name) ?? []) changed.add(listener);
    }
    Object.assign(this.#fields, patch);
    if (commit) this.#committed?.(patch);
    // One view that fails must not keep the others from hearing.
    const failures: unknown[] = [];
    for (const listener of changed) {
      try {
        listener();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  /** Calls `listener` after every change of one of `names`, until `signal` aborts. */
  on(names: Name | readonly Name[], listener: () => void, signal: AbortSignal): void {
    if (signal.aborted) return;
    const sets = (typeof names === "string" ? [names] : names).map((name) => {
      const set = this.#listeners.get(name) ?? new Set();
      this.#listeners.set(name, set);
      return set;
    });
    const called = (): void => {
      if (!signal.aborted) listener(); // it may have been in the middle of a round
    };
    for (const set of sets) set.add(called);
    atEnd(signal, () => sets.forEach((set) => set.delete(called)));
  }

  /** Where committed patches go: `connect` uses it. */
  onCommit(send: (patch: Partial<Traits>) => void, signal: AbortSignal): void {
    this.#committed = send;
    const forget = (): void => {
      this.#committed = null;
    };
    atEnd(signal, forget);
  }
}

/** Equal as a trait: numbers and texts by value, lists and small objects by their items. */
function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, i) => Object.is(item, b[i]));
  if (!isRecord(a) || !isRecord(b)) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.is(a[name], b[name]));
}

/** The map on screen: the one that is ready, or the one before it while that loads or fails. Its labels are those of its own `selection.part`. */
export function shown(state: State): Shown | null {
  const map = state.get("map");
  return map.status === "ready" ? map : map.previous;
}

/** The making of one generated token. */
export interface Moment {
  step: number;
  /** The token that is being produced: no query yet, and the last one that is there. */
  token: number;
  /** The query it is produced at, and the last that has a row; `null` for a token with nothing before it. */
  query: number | null;
}

/** Where generation stands along the queries; `null` where all of it is shown, or nothing was generated. */
export function momentOf(state: State, { generated }: Axis): Moment | null {
  const step = state.get("step");
  if (step === null || step > generated.length) return null;
  const token = generated[step - 1];
  return { step, token, query: token === 0 ? null : token - 1 };
}

/** The query token in focus: under the pointer, else the one a token is being produced at, else the one set from Python. */
export function focusedQuery(state: State, moment: Moment | null = null): number | null {
  const hover = state.get("hover");
  if (moment === null) return hover === null ? state.get("query") : hover.query;
  const there = hover !== null && (hover.query === null ? hover.key !== null : hover.query < moment.token);
  return there ? hover.query : moment.query;
}

// ── loading what is selected ────────────────────────────────────────────────────────────────────────────────────────

/**
 * Keeps `map` at what part, layer, head and reduce select. Loads that are overtaken are aborted, and the picture before
 * stays; a selection that does not exist, or a map that cannot be had, becomes an error in words.
 */
export function follow(state: State, tiles: Pick<Tiles, "map" | "meta">, signal: AbortSignal): void {
  let load = new AbortController();
  let loaded: string | null = null; // key of the map that is loading or on screen
  let queued = false;

  const update = async (): Promise<void> => {
    queued = false;
    const selection = { part: state.get("part"), layer: state.get("layer"), head: state.get("head"), reduce: state.get("reduce") };
    const key = mapKey(selection);
    if (signal.aborted || key === loaded) return;
    loaded = key;
    load.abort();
    load = new AbortController();
    const own = load.signal;
    const previous = shown(state);
    state.set({ map: { status: "loading", since: performance.now(), previous } });
    let outcome: MapState;
    try {
      refuseUnknown(selection, tiles.meta);
      outcome = { status: "ready", map: await tiles.map(selection, own), selection };
    } catch (error) {
      outcome = { status: "error", message: error instanceof Error ? error.message : String(error), previous };
      if (!own.aborted) loaded = null; // coming back to it tries again
    }
    if (!own.aborted) state.set({ map: outcome });
  };
  const soon = (): void => {
    // Layer and head often change together, one event each.
    if (queued) return;
    queued = true;
    queueMicrotask(() => void update());
  };

  atEnd(signal, () => load.abort());
  state.on(["part", "layer", "head", "reduce"], soon, signal);
  const [first] = tiles.meta.parts;
  if (state.get("part") === "") state.set({ part: first.name });
  soon();
}

function refuseUnknown({ part, layer, head }: Selection, meta: Tiles["meta"]): void {
  const info = meta.parts.find((candidate) => candidate.name === part);
  if (info === undefined) throw new WireError(`There is no part named “${part}”. There is: ${meta.parts.map(({ name }) => name).join(", ")}.`);
  const layers = info.layers.length;
  if (layer !== null && !(isCount(layer) && layer < layers)) throw new WireError(`There is no layer ${layer}: ${part} has ${numbered("layer", layers)}.`);
  if (layer !== null && info.layers[layer].absent !== null) throw new WireError(`Layer ${layer} of ${part} has no weights to show (${info.layers[layer].absent}).`);
  const heads = layer === null ? Math.max(0, ...info.layers.map((one) => one.heads)) : info.layers[layer].heads;
  if (head === null || (isCount(head) && head < heads)) return;
  throw new WireError(`There is no head ${head}: ${layer === null ? part : `layer ${layer} of ${part}`} has ${numbered("head", heads)}.`);
}

function numbered(noun: string, count: number): string {
  return count === 0 ? `no ${noun}s` : count === 1 ? `only ${noun} 0` : `${noun}s 0 to ${count - 1}`;
}

const REST = 150; // milliseconds the pointer rests before Python hears of it

/** Makes `query` follow `hover` once the pointer rests, so that Python hears where it stops and not where it passes. */
export function settle(state: State, signal: AbortSignal, rest = REST): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const start = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => { state.set({ query: state.get("hover")?.query ?? null }); }, rest);
  };
  state.on("hover", start, signal);
  atEnd(signal, () => clearTimeout(timer));
}

// ── hosts ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What a host hands over. Static pages offer `get` alone, or methods that throw. */
export interface Model {
  get(name: string): unknown;
  set?(name: string, value: unknown): void;
  on?(event: string, callback: Heard): void;
  off?(event: string, callback: Heard): void;
  save_changes?(): void;
  send?(content: unknown): void;
}

type Heard = (content: unknown, buffers: unknown) => void;

export interface Connection {
  state: State;
  /** `null` where the host has no messages. */
  transport: Transport | null;
  /** The `_bundle` trait as the host holds it: bytes, a view, or base64. */
  bundle: () => unknown;
  onBundle: (listener: () => void, signal: AbortSignal) => void;
}

// Anything may come from a saved notebook or a page; `undefined` leaves the field as it is.
const READ: { [K in keyof Traits]: (value: unknown) => Traits[K] | undefined } = {
  part: (value) => (typeof value === "string" ? value : undefined),
  layer: whole,
  head: whole,
  reduce: oneOf("mean", "max", "min"),
  query: (value) => (value === null || isCount(value) ? value : undefined),
  pinned: (value) => (Array.isArray(value) ? value.filter(isCount) : undefined),
  view: oneOf("arcs", "heatmap"),
  scale: oneOf("linear", "sqrt", "log", "uniform"),
  threshold: (value) => (typeof value === "number" && value > 0 && value <= 1 ? value : undefined),
  theme: oneOf("auto", "light", "dark"),
  sample: (value) => (isCount(value) ? value : undefined),
  step: (value) => (value === null || (isCount(value) && value > 0) ? value : undefined),
};

const TRAITS = Object.keys(READ) as (keyof Traits)[];

function whole(value: unknown): number | null | undefined {
  return value === null || Number.isSafeInteger(value) ? (value as number | null) : undefined;
}

function oneOf<T extends string>(...names: T[]): (value: unknown) => T | undefined {
  return (value) => names.find((name) => name === value);
}

/** A state that is in step with a model, and the ways to its kernel. This is the one place that knows what hosts lack. */
export function connect(model: Model, signal: AbortSignal): Connection {
  const listen = (event: string, listener: Heard, until: AbortSignal): void => {
    quietly(() => model.on?.(event, listener));
    atEnd(until, () => quietly(() => model.off?.(event, listener)));
  };
  const read = (name: keyof Traits): Partial<Traits> => {
    const value = READ[name](quietly(() => model.get(name)));
    return value === undefined ? {} : { [name]: value };
  };

  const state = new State(Object.assign({}, ...TRAITS.map(read)) as Partial<Traits>);
  for (const name of TRAITS) listen(`change:${name}`, () => { state.set(read(name), { commit: false }); }, signal);
  state.onCommit((patch) => {
    const news = TRAITS.filter((name) => name in patch && !same(patch[name], quietly(() => model.get(name))));
    for (const name of news) quietly(() => model.set?.(name, patch[name]));
    if (news.length > 0) quietly(() => model.save_changes?.());
  }, signal);
  settle(state, signal);

  const transport: Transport = {
    send: (content) => model.send?.(content),
    onMessage: (listener, until) => {
      listen("msg:custom", (content, buffers) => listener(content, Array.isArray(buffers) ? buffers.filter(isBytes) : []), until);
    },
  };
  return {
    state,
    transport: model.send === undefined || model.on === undefined ? null : transport,
    bundle: () => model.get("_bundle"),
    onBundle: (listener, until) => { listen("change:_bundle", listener, until); },
  };
}

function isBytes(value: unknown): value is Bytes {
  return value instanceof ArrayBuffer || ArrayBuffer.isView(value);
}

/** What `act` returns; `undefined` where the host throws, as static pages do for what needs a kernel. */
function quietly<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch {
    return undefined;
  }
}

/** The model of an exported page: {"state": {…traits}, "bundle": base64}. Nothing listens to it. */
export function storedModel(text: string): Model {
  let page: unknown;
  try {
    page = JSON.parse(text);
  } catch {
    throw damaged("they are not readable JSON.", "data of this picture");
  }
  if (!isRecord(page) || !isRecord(page["state"]) || typeof page["bundle"] !== "string") {
    throw damaged("state and bundle are missing.", "data of this picture");
  }
  const values = new Map<string, unknown>([...Object.entries(page["state"]), ["_bundle", page["bundle"]]]);
  return { get: (name) => values.get(name), set: (name, value) => void values.set(name, value) };
}
