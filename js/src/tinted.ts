/** What tokens are tinted by: the row or the column of what is in focus, else what each token receives on average. */

import type { Piece } from "./a11y.ts";
import { counted } from "./a11y.ts";
import type { Received } from "./edges.ts";
import { received } from "./edges.ts";
import { focusOf, summed } from "./focus.ts";
import { ordinal } from "./grid.ts";
import type { Side } from "./layout.ts";
import { MASKED } from "./math.ts";
import type { Shown, ViewContext } from "./state.ts";
import { momentOf } from "./state.ts";
import { atEnd } from "./until.ts";
import { wordsOf } from "./wire.ts";

export interface Line {
  /** Which tokens have the weights. */
  side: Side;
  cells: Float32Array | null;
  /** What it is, in words. */
  words: Piece[];
  /** Tokens in focus, on the other side. */
  from: readonly number[];
}

export interface Tinted {
  load(at: Shown): void;
  /** `receives`: tokens that are pinned are looked at as keys. */
  line(receives: boolean, name: (side: Side, place: number) => Piece[]): Line;
}

const say = (text: string): Piece => ({ kind: "words", text });

/** Calls `changed` when there is another line. */
export function tinted(context: Pick<ViewContext, "state" | "signal">, changed: () => void): Tinted {
  const focus = focusOf(context);
  let work = new AbortController(); // for this map
  let at: Shown | null = null;
  let average: Received | null = null;
  let columns: { of: string; cells: Float32Array | null; trouble?: string } = { of: "", cells: null };
  focus.on(changed, context.signal);
  atEnd(context.signal, () => { work.abort(); });

  /** Calls `take` with what comes, or `fail` with why nothing does, unless there is another map by then. */
  const fetch = <T>(what: Promise<T>, take: (found: T) => void, fail: (words: string) => void = () => undefined): void => {
    const { signal } = work;
    const land = (act: () => void): void => {
      if (signal.aborted) return;
      act();
      changed();
    };
    what.then((found) => { land(() => { take(found); }); }, (error: unknown) => { land(() => { fail(wordsOf(error)); }); });
  };

  /** What pinned tokens receive together; fetched where the map is stored pooled. */
  const receivedBy = (of: Shown, places: readonly number[]): Pick<typeof columns, "cells" | "trouble"> => {
    const moment = momentOf(context.state, of.axes.queries);
    const which = JSON.stringify([places, moment?.token]);
    if (columns.of !== which) {
      const now: typeof columns = (columns = { of: which, cells: null });
      fetch(Promise.all(places.map((place) => of.column(place, work.signal))), (found) => {
        now.cells = summed(found.map((each) => (moment === null ? each : each.slice().fill(MASKED, moment.token))));
      }, (words) => { now.trouble = words; }); // coming back to it tries again
    }
    return columns;
  };

  return {
    load(now) {
      at = now;
      work.abort();
      work = new AbortController();
      average = null;
      columns = { of: "", cells: null };
      if (!now.map.pooled) fetch(received(now.map, { signal: work.signal }), (found) => { average = found; });
    },
    line(receives, name) {
      const { queries, key, row, column, error } = focus.current;
      const names = (places: readonly number[], side: Side): Piece[] => (places.length === 1 ? name(side, places[0]) : [say(counted(places.length, "pinned token"))]);
      if (error !== null || at === null) return { side: "key", cells: null, words: [say(error ?? "")], from: [] };
      if (key !== null || (receives && queries.length > 0)) {
        const from = key === null ? queries : [key];
        const { cells, trouble } = key === null ? receivedBy(at, from) : { cells: column };
        return { side: "query", cells, words: trouble === undefined ? [say("What attends to "), ...names(from, "key")] : [say(trouble)], from };
      }
      if (queries.length > 0) return { side: "key", cells: row, words: [say("What "), ...names(queries, "query"), say(queries.length === 1 ? " attends to" : " attend to, added up")], from: queries };
      const over = average === null ? "" : average.every === 1 ? `all ${counted(average.queries, "query token")}` : `every ${ordinal(average.every)} query token`;
      const words = average !== null ? `What each receives, mean over ${over}` : at.map.pooled ? "Point at a token to see its weights" : "…";
      return { side: "key", cells: average?.row ?? null, words: [say(words)], from: [] };
    },
  };
}
