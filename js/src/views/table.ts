/** The strongest edges as a table, to sort and to copy. */

import { counted, element, Names, spelled, stepped, thousands } from "../a11y.ts";
import type { EdgeAt, Edges } from "../edges.ts";
import { edgesOf, rankOf } from "../edges.ts";
import type { Focusing } from "../focus.ts";
import { focusOf, pinnedIn, togglePinned } from "../focus.ts";
import { ordinal } from "../grid.ts";
import { hear } from "../heard.ts";
import { chip } from "../label.ts";
import { isWeight, strongest } from "../math.ts";
import type { Axes, Shown, State, ViewContext } from "../state.ts";
import { effectsIn, momentOf, shown } from "../state.ts";
import { atEnd, listen } from "../until.ts";
import type { Axis } from "../wire.ts";

const ROWS = 200;

/** An edge with its place in the row of its query. */
export interface Ranked extends EdgeAt {
  /** What it does to the objective, where that is shown. */
  effect?: number;
  rank: number;
  /** Keys that have a weight in that row. */
  of: number;
}

export type Column = "query" | "key" | "weight" | "rank" | "effect";

/** Edges by a column, either way; the strongest first among those that are alike in it. Differences are sorted by their size where `sizes`. */
export function sorted(edges: readonly Ranked[], by: Column, down: boolean, sizes = false): Ranked[] {
  const sign = down ? -1 : 1;
  const size = ({ weight }: Ranked): number => Math.abs(weight);
  const value = (edge: Ranked): number => (sizes && by === "weight" ? size(edge) : (edge[by] ?? 0));
  return [...edges].sort((a, b) => sign * (value(a) - value(b)) || size(b) - size(a) || a.query - b.query || a.key - b.key);
}

/**
 * Edges as comma-separated values (RFC 4180), weights in full. A token that a spreadsheet would take for a formula has an
 * apostrophe before it, which spreadsheets hide.
 */
export function csv(edges: readonly Ranked[], { queries, keys }: Axes): string {
  const text = (token: string): string => {
    const safe = /^[=+\-@\t\r]/.test(token) ? `'${token}` : token;
    return `"${safe.replaceAll('"', '""')}"`;
  };
  const short = (value: number): number => Number(value.toPrecision(9));
  const lines = edges.map(({ query, key, weight, rank, effect }) => [query, text(queries.labels[query]), key, text(keys.labels[key]), short(weight), rank, ...(effect === undefined ? [] : [short(effect)])].join(","));
  return [`query,query_token,key,key_token,weight,rank${edges.at(0)?.effect === undefined ? "" : ",effect"}`, ...lines, ""].join("\r\n");
}

/** A weight with four decimals; of a difference, with its sign. */
export function decimals(weight: number, signed: boolean): string {
  if (Number.isNaN(weight)) return "NaN";
  const size = Math.abs(weight);
  const text = size > 0 && size < 0.00005 ? "<0.0001" : size.toFixed(4);
  return weight < 0 ? `−${text}` : signed && weight > 0 ? `+${text}` : text;
}

export function table(context: ViewContext): void {
  new Table(context);
}

const HEADS: readonly (readonly [Column, string])[] = [["query", "query"], ["key", "key"], ["weight", "weight"], ["rank", "rank in row"], ["effect", "effect"]];
const weighing = (row: Float32Array): number => row.reduce((count, cell) => count + Number(isWeight(cell)), 0);

class Table {
  readonly #el: HTMLElement;
  readonly #state: State;
  readonly #focus: Focusing;

  readonly #copy = element("button", { type: "button", class: "attn-button", title: "Weights in full. Tokens that a spreadsheet would run as a formula (= + − @) have an apostrophe before them." }, "Copy as CSV");
  readonly #said = element("span", { class: "attn-quiet", role: "status" });
  readonly #all = element("button", { type: "button", class: "attn-button" }, "all queries");
  readonly #caption = element("caption");
  readonly #body = element("tbody");
  readonly #heads: readonly HTMLElement[];
  readonly #fallback = element("textarea", { class: "attn-csv", readonly: "", rows: 6, "aria-label": "The table as comma-separated values" });

  #at: Shown | null = null;
  #edges: readonly Ranked[] = [];
  #of = ""; // what the edges are of
  #by: Column = "weight";
  #down = true;
  #work = new AbortController();

  constructor(context: ViewContext) {
    const { el, state, signal } = context;
    this.#el = el;
    this.#state = state;
    this.#focus = focusOf(context);
    el.classList.add("attn-table");
    this.#heads = HEADS.map(([column, name]) => {
      const button = element("button", { type: "button", "data-sort": column }, name);
      listen(button, { click: () => { this.#sort(column); } }, signal);
      return element("th", { scope: "col" }, button);
    });
    el.append(
      element("div", { class: "attn-options" }, this.#copy, this.#all, this.#said), this.#fallback,
      element("div", { class: "attn-scroll" }, element("table", {}, this.#caption, element("thead", {}, element("tr", {}, ...this.#heads)), this.#body)),
    );
    this.#fallback.hidden = this.#all.hidden = true;
    const load = (): void => { this.#load(); };
    state.on(["map", "threshold", "pinned", "query", "step"], load, signal);
    this.#focus.on(load, signal);
    listen(this.#copy, { click: () => { void this.#copied(); } }, signal);
    listen(this.#all, { click: () => { state.set({ pinned: [], query: null }); } }, signal);
    hear(this.#body, {
      point: () => undefined, // a row under the pointer would be all that is listed
      press: (n) => {
        const held = this.#body.contains(document.activeElement);
        togglePinned(state, Number(this.#body.rows[n].dataset["query"]));
        if (held && !this.#body.contains(document.activeElement)) this.#body.rows.item(0)?.focus(); // the rows are new ones
      },
      escape: () => { state.set({ pinned: [] }); },
    }, {
      at: ({ target }) => {
        const row = target instanceof Element ? target.closest<HTMLTableRowElement>("tbody tr") : null;
        return row === null ? null : row.sectionRowIndex;
      },
      to: (key, n) => (key === "ArrowLeft" || key === "ArrowRight" ? null : stepped(key, n, this.#body.rows.length)),
      go: (to) => {
        for (const [n, row] of [...this.#body.rows].entries()) row.tabIndex = n === to ? 0 : -1;
        this.#body.rows[to].focus();
      },
    }, signal);
    atEnd(signal, () => { this.#work.abort(); });
    load();
  }

  // ── which edges ──

  #load(): void {
    const at = shown(this.#state);
    if (at === null) return;
    const { queries, rows, error } = this.#focus.current;
    const there = momentOf(this.#state, at.axes.queries)?.token ?? at.map.nq;
    const of = JSON.stringify([queries, rows.length, error, this.#state.get("threshold"), there]);
    if (at === this.#at && of === this.#of) return this.#mark();
    this.#at = at;
    this.#of = of;
    this.#work.abort();
    this.#work = new AbortController();
    this.#said.textContent = "";
    this.#fallback.hidden = true;
    this.#all.hidden = queries.length === 0;
    if (error !== null) this.#tell([error], []);
    else if (rows.length < queries.length) this.#tell(["waiting for the exact weights …"], []);
    else if (queries.length > 0) this.#ofQueries(at, queries, rows);
    else if (at.map.pooled) this.#tell(["This map is too large to be here whole. Pin a query in another view to list its edges exactly."], []);
    else void this.#ofAll(at, there, this.#work.signal);
  }

  #ofQueries({ axes }: Shown, queries: readonly number[], rows: readonly Float32Array[]): void {
    const share = this.#state.get("threshold");
    const carrying = rows.reduce((sum, row) => sum + strongest(row, share).indices.length, 0);
    const edges = rows.flatMap((row, n) => {
      const of = weighing(row);
      return Array.from(strongest(row, 1, ROWS).indices, (key, place): Ranked => ({ query: queries[n], key, weight: row[key], rank: place + 1, of }));
    });
    const who = queries.length === 1 ? spelled(new Names(axes.queries.labels).of(queries[0])) : [counted(queries.length, "pinned token")];
    this.#list(carrying, ["the weight of ", ...who], sorted(edges, "weight", true, true).slice(0, ROWS));
  }

  async #ofAll({ map }: Shown, there: number, signal: AbortSignal): Promise<void> {
    this.#tell(["looking at all queries …"], []);
    let found: Edges;
    try {
      found = await edgesOf(map, this.#state.get("threshold"), ROWS, { signal, queries: there });
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
    const rows = new Map<number, Float32Array>();
    const ranked = found.edges.map((edge): Ranked => {
      const row = rows.get(edge.query) ?? map.row(edge.query) ?? new Float32Array(map.nk);
      rows.set(edge.query, row);
      return { ...edge, rank: rankOf(row, edge.key), of: weighing(row) };
    });
    this.#list(found.carrying, [found.every === 1 ? "each row" : `every ${ordinal(found.every)} row: the map is too large to look at each`], ranked);
  }

  #list(carrying: number, whose: readonly (Node | string)[], edges: readonly Ranked[]): void {
    const share = this.#state.get("threshold");
    const what = share === 1 ? " with any weight in " : ` ${carrying === 1 ? "carries" : "carry"} ${Math.round(share * 100)} % of `;
    this.#tell([counted(carrying, "edge"), what, ...whose, edges.length === ROWS ? `; the strongest ${ROWS} are listed.` : `; ${counted(edges.length, "edge")} listed.`], edges);
  }

  // ── on screen ──

  #tell(caption: readonly (Node | string)[], edges: readonly Ranked[]): void {
    this.#caption.replaceChildren(...caption);
    const effects = effectsIn(this.#at);
    this.#edges = effects === null ? edges : edges.map((edge) => ({ ...edge, effect: effects.map.tile(edge.query, edge.query + 1, edge.key, edge.key + 1)[0] * effects.largest }));
    this.#copy.disabled = edges.length === 0;
    this.#write();
    if (edges.length > 0 || this.#at?.map.pooled === true) this.#el.dispatchEvent(new Event("attn-drawn", { bubbles: true }));
  }

  #sort(column: Column): void {
    this.#down = column === this.#by ? !this.#down : column === "weight" || column === "effect";
    this.#by = column;
    this.#write();
  }

  get #sorted(): Ranked[] {
    return sorted(this.#edges, this.#by, this.#down, this.#at?.map.signed);
  }

  #write(): void {
    const at = this.#at;
    if (at === null) return;
    const effects = effectsIn(at);
    this.#el.classList.toggle("attn-acting", effects !== null);
    HEADS.forEach(([column], n) => {
      const th = this.#heads[n];
      if (column === "effect") {
        th.hidden = effects === null;
        th.title = effects === null ? "" : `on ${effects.words}, to first order`;
      }
      if (column === this.#by) th.setAttribute("aria-sort", this.#down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    this.#body.replaceChildren(...this.#sorted.map(({ query, key, weight, rank, of, effect }, n) =>
      element("tr", { "data-query": query, "data-key": key, "data-weight": weight, ...(effect === undefined ? {} : { "data-effect": effect }), tabindex: n === 0 ? 0 : -1 },
        tokenCell("th", at.axes.queries, query), tokenCell("td", at.axes.keys, key),
        element("td", {}, decimals(weight, at.map.signed)),
        element("td", {}, thousands(rank), element("span", { class: "attn-quiet" }, ` of ${thousands(of)}`)),
        ...(effect === undefined || effects === null ? [] : [element("td", {}, effects.reach(query) ? decimals(effect, true) : "cannot reach it")]),
      )));
    this.#mark();
  }

  /** Marks what is pinned. */
  #mark(): void {
    const pinned = pinnedIn(this.#state, this.#at?.map.nq ?? 0);
    for (const row of this.#body.rows) row.classList.toggle("attn-pinned", pinned.includes(Number(row.dataset["query"])));
  }

  /** To the clipboard; where the host does not let a page write there, into a field to copy from. */
  async #copied(): Promise<void> {
    const at = this.#at;
    if (at === null) return;
    const text = csv(this.#sorted, at.axes);
    try {
      await navigator.clipboard.writeText(text);
      this.#said.textContent = `${counted(this.#edges.length, "edge")} copied`;
    } catch {
      this.#fallback.value = text;
      this.#fallback.hidden = false;
      this.#fallback.select();
      this.#said.textContent = "This page may not write to the clipboard: press Ctrl+C, or ⌘C, to copy what is selected.";
    }
  }
}

function tokenCell(kind: "th" | "td", axis: Axis, at: number): HTMLElement {
  return element(kind, kind === "th" ? { scope: "row" } : {}, chip(axis, at), element("span", { class: "attn-quiet attn-position" }, thousands(at)));
}
