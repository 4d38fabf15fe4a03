/**
 * What is being looked at: one small store that the views read and write, and the only place that knows how hosts differ.
 *
 * Field names are those of the Python traits. `hover`, `map` and `notice` are local.
 */

import { thousands } from "./a11y.ts";
import type { Groups, Source } from "./combine.ts";
import { difference, gathered, grouped, joined, placed } from "./combine.ts";
import type { Effects } from "./effects.ts";
import { effectsOf } from "./effects.ts";
import type { Switches } from "./head.ts";
import type { WeightMap } from "./math.ts";
import type { Tiles, Transport } from "./tiles.ts";
import { atEnd } from "./until.ts";
import type { Axis, BundleMeta, Bytes, HeadAt, Reduce, Selection } from "./wire.ts";
import { damaged, headsKey, isCount, isRecord, isText, mapKey, WireError, wordsOf } from "./wire.ts";

export type { Reduce, Selection, Switches };

/** What the pointer is at, as places of the axes that are shown. */
export interface Hover {
  query: number | null;
  key: number | null;
}

/** A map and what it is a map of. Its rows and columns are *places* of `axes`: tokens, or groups of them. */
export interface Shown extends Source {
  selection: Selection;
  axes: Axes;
  /** Which tokens each place stands for; `null` where places are tokens. */
  groups: { queries: Groups | null; keys: Groups | null };
  /** The heads one by one, on the same axes, where a few are to be told apart in one picture. */
  overlaid: readonly { head: HeadAt; map: WeightMap }[];
  /** Where they are asked for, what the edges do to the objective, or why that cannot be had. */
  effects?: Effects | string;
}

export interface Axes {
  queries: Axis;
  keys: Axis;
}

/** While one map loads, or where it cannot be had, the `previous` one stays on screen. `since` is performance.now(). */
export type MapState =
  | { status: "loading"; since: number; previous: Shown | null }
  | ({ status: "ready" } & Shown)
  | { status: "error"; message: string; previous: Shown | null };

/** The synced traits. */
export interface Traits extends Selection {
  /** Several heads, whose maps are joined by `reduce`; empty: `layer` and `head` say which. */
  heads: readonly HeadAt[];
  /** Whether a few heads are drawn in colours of their own where a view can do that. */
  overlay: boolean;
  query: number | null;
  pinned: readonly number[];
  view: "arcs" | "heatmap" | "graph" | "text" | "steps" | "image" | "table";
  /** Arcs between two columns, or above one line. */
  arrangement: "columns" | "line";
  /** What stands as one token. */
  group: "token" | "word" | "sentence";
  /** What a text is tinted by. */
  direction: "attends" | "receives";
  /** false: keys that take most of everything are left out of the colour range, and what they take is said. */
  sinks: boolean;
  /** Of a comparison: one side, the other, or the first less the second. */
  side: "difference" | "a" | "b";
  /** The measure that the heads are sorted by; empty: as they are in the model. */
  sort: string;
  /** Heads that are below this in `sort` are dimmed. */
  least: number | null;
  switches: Switches;
  /** Views that were given a name: the traits of each. */
  views: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  scale: "linear" | "sqrt" | "log" | "uniform";
  threshold: number;
  /** Whether edges show what they do to the objective. */
  effects: boolean;
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
  /** Tokens whose words or sentences are taken apart again. */
  expanded: readonly number[];
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

export const SWITCHES: Switches = { scale: true, mask: true, positions: true, uniform: false, temperature: 1 };

const DEFAULTS: Fields = {
  part: "",
  layer: null,
  head: null,
  heads: [],
  overlay: true,
  reduce: "mean",
  query: null,
  pinned: [],
  view: "arcs",
  arrangement: "columns",
  group: "token",
  direction: "attends",
  sinks: true,
  side: "difference",
  sort: "",
  least: null,
  switches: SWITCHES,
  views: {},
  scale: "sqrt",
  threshold: 0.9,
  effects: false,
  theme: "auto",
  sample: 0,
  step: null,
  hover: null,
  map: { status: "loading", since: 0, previous: null },
  notice: null,
  expanded: [],
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
    atEnd(signal, () => { this.#committed = null; });
  }
}

/** Equal as a trait: numbers and texts by value, lists and what they hold by their items, small objects by their fields. */
function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, i) => same(item, b[i]));
  if (!isRecord(a) || !isRecord(b)) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.is(a[name], b[name]));
}

/** The map on screen: the one that is ready, or the one before it while that loads or fails. */
export function shown(state: State): Shown | null {
  const map = state.get("map");
  return map.status === "ready" ? map : map.previous;
}

/** The axes of a part by its name; those of the first part where there is none of that name. */
export function axesOf({ axes, parts }: BundleMeta, name: string): Axes {
  const part = parts.find((candidate) => candidate.name === name) ?? parts[0];
  return { queries: axes[part.queries], keys: axes[part.keys] };
}

/** What its edges do to the objective, where that is shown. */
export const effectsIn = (at: Shown | null): Effects | null => (typeof at?.effects === "object" ? at.effects : null);

/** The axes of the map on screen; before there is one, those it will have if its tokens stand one by one. */
export const axesNow = (state: State, tiles: Pick<Tiles, "meta">): Axes => shown(state)?.axes ?? axesOf(tiles.meta, state.get("part"));

/** The place of a query token on screen, and the first token of a place. */
export const placeOf = (state: State, token: number): number => shown(state)?.groups.queries?.of[token] ?? token;
export const tokenOf = (state: State, place: number): number => shown(state)?.groups.queries?.members[place]?.[0] ?? place;

/** The making of one generated token. */
export interface Moment {
  step: number;
  /** The token that is being produced: no query yet, and the last one that is there. */
  token: number;
  /** The query it is produced at, and the last that has a row; `null` for a token with nothing before it. */
  query: number | null;
}

/** Where generation stands along the queries (of tokens: while a token is being produced nothing is grouped); `null` where all of it is shown, or nothing was generated. */
export function momentOf(state: State, { generated }: Axis): Moment | null {
  const step = state.get("step");
  if (step === null || step > generated.length) return null;
  const token = generated[step - 1];
  return { step, token, query: token === 0 ? null : token - 1 };
}

/** The query in focus, as a place: under the pointer, else the one a token is being produced at, else the one set from Python. */
export function focusedQuery(state: State, moment: Moment | null = null): number | null {
  const hover = state.get("hover");
  const query = state.get("query");
  if (moment === null) return hover !== null ? hover.query : query === null ? null : placeOf(state, query);
  const there = hover !== null && (hover.query === null ? hover.key !== null : hover.query < moment.token);
  return there ? hover.query : moment.query;
}

// ── loading what is selected ────────────────────────────────────────────────────────────────────────────────────────

// What decides which map is shown, and how its tokens are put together.
const CHOSEN = ["part", "layer", "head", "heads", "reduce", "group", "expanded", "side", "step", "effects"] as const;
const OVERLAID = 6; // heads that can be told apart by their colour

/** What is selected, whether it is there or not. */
export function selected(state: State): Selection {
  const heads = state.get("heads");
  return { part: state.get("part"), layer: state.get("layer"), head: state.get("head"), reduce: state.get("reduce"), ...(heads.length > 0 ? { heads } : {}) };
}

/**
 * Keeps `map` at what is selected. Loads that are overtaken are aborted, and the picture before stays; a selection that
 * does not exist, or a map that cannot be had, becomes an error in words.
 */
export function follow(state: State, tiles: Loaded & Pick<Tiles, "get">, signal: AbortSignal): void {
  let load = new AbortController();
  let loaded: string | null = null; // what is loading or on screen
  let queued = false;

  const update = async (): Promise<void> => {
    queued = false;
    const selection = selected(state);
    const key = JSON.stringify([mapKey(selection), groupingOf(state, axesOf(tiles.meta, selection.part).queries), state.get("expanded"), state.get("side"), state.get("effects")]);
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
      const { objective } = tiles.meta;
      const asked = objective === null || !state.get("effects") ? null : tiles.get(`effects/${selection.part}/${headsKey(selection)}`, { signal: own }).catch(wordsOf);
      const at = await read(state, tiles, selection, own);
      const found = await asked;
      const { queries, keys } = axesOf(tiles.meta, selection.part);
      const effects = isText(found) ? { effects: found } : found && objective && { effects: effectsOf(found, objective.words, [queries.labels.length, keys.labels.length], at.groups) };
      outcome = { status: "ready", ...at, ...effects };
    } catch (error) {
      outcome = { status: "error", message: wordsOf(error), previous };
      if (!own.aborted) loaded = null; // coming back to it tries again
    }
    if (own.aborted) return;
    const regrouped = outcome.status === "ready" && previous !== null && outcome.axes.queries !== previous.axes.queries;
    state.set({ map: outcome, ...(regrouped ? { hover: null } : {}) }); // places mean other tokens now
  };
  const soon = (): void => {
    // Layer and head often change together, one event each.
    if (queued) return;
    queued = true;
    queueMicrotask(() => void update());
  };

  atEnd(signal, () => load.abort());
  state.on(CHOSEN, soon, signal);
  state.on(["part", "group"], () => { state.set({ expanded: [] }); }, signal); // other words, or others in them
  const [first] = tiles.meta.parts;
  if (state.get("part") === "") state.set({ part: first.name });
  soon();
}

/** What is needed of `Tiles` to show a map. */
interface Loaded extends Pick<Tiles, "meta" | "map" | "row" | "column"> {
  readonly other?: Loaded | null;
}

/** Tokens come one by one while one of them is being produced. */
const groupingOf = (state: State, queries: Axis): Traits["group"] => (momentOf(state, queries) === null ? state.get("group") : "token");

/** The map of a selection as it is to be shown: several heads joined, one side less the other, tokens in groups. */
export async function read(state: State, tiles: Loaded, selection: Selection, signal: AbortSignal): Promise<Shown> {
  const { part, reduce, heads = [] } = selection;
  const axes = axesOf(tiles.meta, part);
  const [by, side, other] = [groupingOf(state, axes.queries), state.get("side"), tiles.other ?? null];
  const aligned = tiles.meta.parts.find(({ name }) => name === part)?.aligned ?? null;
  const groups = { queries: by === "token" ? null : gathered(axes.queries, by, state.get("expanded")), keys: null as Groups | null };
  groups.keys = axes.keys === axes.queries ? groups.queries : by === "token" ? null : gathered(axes.keys, by, []);

  const load = async (from: Loaded, at: Selection): Promise<Source> => ({
    map: await from.map(at, signal),
    row: (i, until) => from.row(at, i, until),
    column: (j, until) => from.column(at, j, until),
  });
  const loads = new Map<Loaded, Map<Selection, Promise<Source>>>(); // each head is asked for once
  const plain = (from: Loaded, at: Selection): Promise<Source> => {
    const of = loads.get(from) ?? new Map<Selection, Promise<Source>>();
    const found = of.get(at) ?? load(from, at);
    loads.set(from, of.set(at, found));
    return found;
  };
  // Heads are joined first, then one side is taken from the other, then tokens are put together: as in Python.
  const ofSide = async (which: 0 | 1, at: readonly Selection[]): Promise<Source> => {
    const from = which === 0 || other === null ? tiles : other;
    const sources = await Promise.all(at.map((one) => plain(from, one)));
    for (const { map: { nq, nk } } of sources) {
      const fits = (n: number, of: keyof Axes): boolean => (aligned === null ? n === axes[of].labels.length : aligned[of][which].every((token) => token < n));
      if (!fits(nq, "queries") || !fits(nk, "keys")) throw damaged(`${nq} × ${nk} weights are not those of these tokens.`);
    }
    const source = joined(sources, reduce);
    return aligned === null ? source : placed(source, aligned.queries[which], aligned.keys[which]);
  };
  const made = async (...at: readonly Selection[]): Promise<Source> => {
    const both = other !== null && side === "difference";
    const source = both ? difference(...(await Promise.all([ofSide(0, at), ofSide(1, at)]))) : await ofSide(other !== null && side === "b" ? 1 : 0, at);
    return groups.queries === null && groups.keys === null ? source : grouped(source, groups.queries, groups.keys);
  };
  const shownAxes = { queries: groups.queries?.axis ?? axes.queries, keys: groups.keys?.axis ?? axes.keys };
  const ones = heads.map(([layer, head]): Selection => ({ part, layer, head, reduce }));
  const overlaid = heads.length > 1 && heads.length <= OVERLAID ? ones : [];
  const [whole, ...apart] = await Promise.all([made(...(heads.length === 0 ? [selection] : ones)), ...overlaid.map((one) => made(one))]);
  return { ...whole, selection, axes: shownAxes, groups, overlaid: apart.map(({ map }, n) => ({ head: heads[n], map })) };
}

export const JOINED = 64; // heads whose maps are fetched one by one to be joined

/** Why `count` heads are not joined. */
export const tooMany = (count: number): string => `${thousands(count)} heads are too many to join one by one, ${JOINED} at most; a whole layer is the margin to the right.`;

function refuseUnknown({ part, layer, head, heads }: Selection, meta: BundleMeta): void {
  const info = meta.parts.find((candidate) => candidate.name === part);
  if (info === undefined) throw new WireError(`There is no part named “${part}”. There is: ${meta.parts.map(({ name }) => name).join(", ")}.`);
  if (heads !== undefined && heads.length > JOINED) throw new WireError(tooMany(heads.length));
  for (const [l, h] of heads ?? []) refuseUnknown({ part, layer: l, head: h, reduce: "mean" }, meta);
  if (heads !== undefined && heads.length > 0) return;
  const layers = info.layers.length;
  if (layer !== null && !(isCount(layer) && layer < layers)) throw new WireError(`There is no layer ${layer}: ${part} has ${numbered("layer", layers)}.`);
  if (layer !== null && info.layers[layer].absent !== null) throw new WireError(`Layer ${layer} of ${part} has no weights to show (${info.layers[layer].absent}).`);
  const most = layer === null ? Math.max(0, ...info.layers.map((one) => one.heads)) : info.layers[layer].heads;
  if (head === null || (isCount(head) && head < most)) return;
  throw new WireError(`There is no head ${head}: ${layer === null ? part : `layer ${layer} of ${part}`} has ${numbered("head", most)}.`);
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
    timer = setTimeout(() => {
      const place = state.get("hover")?.query ?? null;
      state.set({ query: place === null ? null : tokenOf(state, place) });
    }, rest);
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
  /** When the kernel behind the model stopped or was started anew. */
  onGone: (listener: () => void, signal: AbortSignal) => void;
}

// Anything may come from a saved notebook or a page; `undefined` leaves the field as it is.
const READ: { [K in keyof Traits]: (value: unknown) => Traits[K] | undefined } = {
  part: one(isText),
  layer: orNull(isWhole),
  head: orNull(isWhole),
  reduce: oneOf("mean", "max", "min"),
  query: orNull(isCount),
  heads: (value) => (Array.isArray(value) ? value.filter(isHead) : undefined),
  overlay: one(isTruth),
  pinned: (value) => (Array.isArray(value) ? value.filter(isCount) : undefined),
  view: oneOf("arcs", "heatmap", "graph", "text", "steps", "image", "table"),
  arrangement: oneOf("columns", "line"),
  group: oneOf("token", "word", "sentence"),
  direction: oneOf("attends", "receives"),
  sinks: one(isTruth),
  side: oneOf("difference", "a", "b"),
  sort: one(isText),
  least: orNull(isNumber),
  switches: readSwitches,
  views: (value) => (isRecord(value) ? Object.fromEntries(Object.entries(value).filter((entry): entry is [string, Record<string, unknown>] => isRecord(entry[1]))) : undefined),
  scale: oneOf("linear", "sqrt", "log", "uniform"),
  threshold: one((value): value is number => isNumber(value) && value > 0 && value <= 1),
  effects: one(isTruth),
  theme: oneOf("auto", "light", "dark"),
  sample: one(isCount),
  step: orNull((value): value is number => isCount(value) && value > 0),
};

export const TRAITS = Object.keys(READ) as (keyof Traits)[];

/** What of `values` can be read as traits: a view that was given a name, from here or from anywhere. */
export function readTraits(values: Readonly<Record<string, unknown>>): Partial<Traits> {
  const found = TRAITS.filter((name) => name in values).map((name) => [name, READ[name](values[name])] as const);
  return Object.fromEntries(found.filter(([, value]) => value !== undefined));
}

/** The view as it is, but for the views that were given names. */
export function traitsOf(state: State): Readonly<Record<string, unknown>> {
  return Object.fromEntries(TRAITS.filter((name) => name !== "views").map((name) => [name, state.get(name)]));
}

/** The traits that are not as they are when nothing is said. */
export function told(state: State): [name: string, value: unknown][] {
  return Object.entries(traitsOf(state)).filter(([name, value]) => !same(value, DEFAULTS[name as Name]));
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

function isNumber(value: unknown): value is number {
  return typeof value === "number";
}

function isTruth(value: unknown): value is boolean {
  return typeof value === "boolean";
}

function isHead(value: unknown): value is HeadAt {
  return Array.isArray(value) && value.length === 2 && value.every(isCount);
}

function readSwitches(value: unknown): Switches | undefined {
  if (!isRecord(value)) return undefined;
  const { scale, mask, positions, uniform, temperature } = { ...SWITCHES, ...value };
  const heat = isNumber(temperature) && temperature > 0 ? temperature : 1;
  return { scale, mask, positions, uniform, temperature: heat };
}

function one<T>(is: (value: unknown) => value is T): (value: unknown) => T | undefined {
  return (value) => (is(value) ? value : undefined);
}

function orNull<T>(is: (value: unknown) => value is T): (value: unknown) => T | null | undefined {
  return (value) => (value === null || is(value) ? value : undefined);
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
    // ipywidgets says so once more after the start: when a kernel restarts or dies, and when Python closes the widget.
    onGone: (listener, until) => { for (const event of ["comm_live_update", "comm:close"]) listen(event, listener, until); },
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
  if (!isRecord(page) || !isRecord(page["state"]) || !isText(page["bundle"])) {
    throw damaged("state and bundle are missing.", "data of this picture");
  }
  const values = new Map<string, unknown>([...Object.entries(page["state"]), ["_bundle", page["bundle"]]]);
  return { get: (name) => values.get(name), set: (name, value) => void values.set(name, value) };
}
