/**
 * What is in focus: whose rows and whose column are shown, added up, fetched where the map is stored pooled.
 *
 * One per state, shared by all views, so that each picture of a hover comes from the same numbers computed once.
 */

import type { WeightMap } from "./math.ts";
import { MASKED, PADDED } from "./math.ts";
import type { Hover, Moment, Shown, State, ViewContext } from "./state.ts";
import { effectsIn, focusedQuery, momentOf, placeOf, shown, tokenOf } from "./state.ts";
import { atEnd } from "./until.ts";
import { wordsOf } from "./wire.ts";

export interface Focus {
  /** Queries whose rows are added up: the one under the pointer, else the pinned ones. */
  queries: readonly number[];
  key: number | null;
  /** The row of each query, [n_k]; empty while they are fetched. */
  rows: readonly Float32Array[];
  /** Their sum, with codes; `null` where there are none. */
  row: Float32Array | null;
  /** [n_q] */
  column: Float32Array | null;
  /** What these edges do to the objective, where that is shown: beside keys the rows, added up, beside queries the column. */
  effects: Readonly<Record<"query" | "key", Float32Array | null>> | null;
  /** What the rows together give to no key. */
  leak: number;
  /** The token that is being produced, if one is. What comes after it is never in focus. */
  moment: Moment | null;
  /** Why a row or column cannot be shown. */
  error: string | null;
}

const NOTHING: Focus = { queries: [], key: null, rows: [], row: null, column: null, effects: null, leak: 0, moment: null, error: null };

export interface Focusing {
  readonly current: Focus;
  on(listener: () => void, signal: AbortSignal): void;
}

const known = new WeakMap<State, Focusing>();

/** The focus of `state`; made by the first who asks, who must outlive the others. */
export function focusOf({ state, signal }: Pick<ViewContext, "state" | "signal">): Focusing {
  const existing = known.get(state);
  if (existing !== undefined) return existing;
  const made = focusing(state, signal);
  known.set(state, made);
  atEnd(signal, () => known.delete(state));
  return made;
}

function focusing(state: State, signal: AbortSignal): Focusing {
  const listeners = new Set<() => void>();
  let current = NOTHING;
  let fetching = new AbortController();

  const tell = (focus: Focus): void => {
    current = focus;
    for (const listener of listeners) listener();
  };
  const update = (): void => {
    fetching.abort();
    const at = shown(state);
    if (at === null) return tell(NOTHING);
    const { queries: asking, keys: asked } = at.axes;
    const moment = momentOf(state, asking);
    const { queries, key } = chosen(state, at, moment, asking === asked);
    const rowsOf = (map: WeightMap): Float32Array[] => queries.map((i) => map.row(i)).filter((one) => one !== null);
    const [rows, acts] = [rowsOf(at.map), effectsIn(at)?.map];
    const column = key === null ? null : asOf(moment, at.map.column(key));
    const leak = queries.reduce((sum, i) => sum + at.map.leak(i), 0);
    const effects = acts === undefined ? null : { key: summed(rowsOf(acts)), query: key === null ? null : acts.column(key) };
    const now: Focus = { queries, key, rows, row: summed(rows), column, effects, leak, moment, error: null };
    tell(now);
    if (rows.length < queries.length || (key !== null && column === null)) void fetch(at, now);
  };
  const fetch = async (at: Shown, wanted: Focus): Promise<void> => {
    const own = (fetching = new AbortController()).signal;
    try {
      const rows = await Promise.all(wanted.queries.map((i) => at.row(i, own)));
      const column = wanted.key === null ? null : asOf(wanted.moment, await at.column(wanted.key, own));
      // A pooled map knows what leaves a step of rows; what leaves these very rows is what they lack.
      const leak = wanted.leak > 0 ? rows.reduce((sum, row) => sum + Math.max(0, 1 - row.reduce((mass, p) => (p > 0 ? mass + p : mass), 0)), 0) : 0;
      if (!own.aborted) tell({ ...wanted, rows, row: summed(rows), column, leak });
    } catch (error) {
      if (!own.aborted) tell({ ...wanted, error: wordsOf(error) });
    }
  };

  state.on(["map", "hover", "query", "pinned", "step"], update, signal);
  atEnd(signal, () => { fetching.abort(); });
  update();
  return {
    get current() {
      return current;
    },
    on(listener, until) {
      listeners.add(listener);
      atEnd(until, () => listeners.delete(listener));
    },
  };
}

/** A token under the pointer counts alone, unless it is pinned itself: then the pinned ones count together. */
function chosen(state: State, { map }: Shown, moment: Moment | null, sameTokens: boolean): { queries: number[]; key: number | null } {
  const pinned = pinnedIn(state, moment?.token ?? map.nq);
  const query = focusedQuery(state, moment);
  const key = state.get("hover")?.key ?? null;
  const alone = query !== null && query < map.nq && !pinned.includes(query);
  const keys = moment !== null && sameTokens ? moment.token + 1 : map.nk;
  return { queries: alone ? [query] : pinned, key: key !== null && key < keys ? key : null };
}

/** A column without the queries that are not there yet. */
function asOf(moment: Moment | null, column: Float32Array | null): Float32Array | null {
  return moment === null || column === null ? column : column.slice().fill(MASKED, moment.token);
}

/** The places of the pinned queries that this map has. */
export const pinnedIn = (state: State, nq: number): number[] => [...new Set(state.get("pinned").map((token) => placeOf(state, token)))].filter((i) => i < nq);

/** Rows added up. A cell that holds a weight in any row counts; NaN anywhere stays NaN. */
export function summed(rows: readonly Float32Array[]): Float32Array | null {
  if (rows.length < 2) return rows.at(0) ?? null;
  const sum = rows[0].slice();
  for (const row of rows.slice(1)) {
    for (let j = 0; j < sum.length; j++) {
      const [a, b] = [sum[j], row[j]];
      if (a === MASKED || a === PADDED) sum[j] = b === PADDED ? a : b;
      else if (b !== MASKED && b !== PADDED) sum[j] = a + b;
    }
  }
  return sum;
}

/** Pins the query at a place, or lets it go. */
export function togglePinned(state: State, place: number): void {
  const pinned = state.get("pinned");
  const others = pinned.filter((token) => placeOf(state, token) !== place);
  state.set({ pinned: others.length < pinned.length ? others : [...pinned, tokenOf(state, place)] });
}

const leaving = new WeakMap<State, ReturnType<typeof setTimeout>>();
const NOWHERE: Hover = { query: null, key: null };

/**
 * The pointer (or the keyboard) is at `hover`, or nowhere. It stays known to be nowhere until Python has heard of it, so
 * that the query Python last heard of does not flash up in between.
 */
export function point(state: State, hover: Hover | null): void {
  clearTimeout(leaving.get(state));
  if (hover !== null) return state.set({ hover });
  if (state.get("hover") === null) return;
  state.set({ hover: NOWHERE });
  leaving.set(state, setTimeout(() => { state.set({ hover: null }); }, 250));
}
