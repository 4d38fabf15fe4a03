/**
 * One query of one head, step by step: q and k, their product, the scale, bias and mask, softmax, × v, the sum, and what
 * the head writes. Steps can be switched; what comes of that stands in colour, the model's own around it as outlines.
 *
 * A line of the table is one key through all steps. The key that is traced (under the pointer, else the one that was
 * clicked or has the keyboard, else the strongest) has its vectors above and below the table.
 */

import type { Piece } from "../a11y.ts";
import { element, Names, spelled, segmented, thousands } from "../a11y.ts";
import { perFrame } from "../draw.ts";
import { point } from "../focus.ts";
import type { Numbers } from "../head.ts";
import { ABSENT, ALLOWED, descending, Head, largest, moved, products, reach } from "../head.ts";
import { KeyTable } from "../keys.ts";
import { chip } from "../label.ts";
import type { Compared } from "../stages.ts";
import { changesOf, figure, stagesOf, weightFigure } from "../stages.ts";
import type { Axes, Hover, Shown, State, ViewContext } from "../state.ts";
import { axesOf, focusedQuery, momentOf, placeOf, shown, SWITCHES, tokenOf } from "../state.ts";
import type { Strip } from "../strips.ts";
import { Strips } from "../strips.ts";
import { Switchboard } from "../switchboard.ts";
import { css, onDress, paletteAt } from "../theme.ts";
import type { Tiles } from "../tiles.ts";
import type { Subject } from "../told.ts";
import { changeTold, scoresTold, sumTold, vectorsTold, writeTold } from "../told.ts";
import { atEnd, listen } from "../until.ts";
import type { HeadAt, PartInfo, Selection } from "../wire.ts";
import { wordsOf } from "../wire.ts";

export function steps(context: ViewContext): void {
  new Steps(context);
}

// ── which head, which query ─────────────────────────────────────────────────────────────────────────────────────────

const OFFERED = 8; // heads to choose from

/** The one head that is selected, or some of those that are, to choose one from; the highest first in the measure `sort`. */
export function headsOf({ layer, head, heads = [] }: Selection, part: PartInfo, sort = ""): { one: HeadAt | null; offered: HeadAt[] } {
  const all = part.layers.flatMap((info, l) => Array.from({ length: info.heads }, (_, h): HeadAt => [l, h]));
  const meant = heads.length > 0 ? [...heads] : layer !== null && head !== null ? [[layer, head] as const] : all.filter(([l, h]) => (layer ?? l) === l && (head ?? h) === h);
  if (meant.length === 1) return { one: meant[0], offered: [] };
  const values = part.measures.find(({ name }) => name === sort)?.values;
  const of = ([l, h]: HeadAt): number => values?.[l]?.[h] ?? -Infinity;
  return { one: null, offered: meant.sort((a, b) => (of(a) === of(b) ? 0 : of(b) - of(a))).slice(0, OFFERED) };
}

/** Tokens on screen against tokens of the side that is shown: the same, but where two attentions are compared; −1 for none. */
export interface Places {
  outside: (token: number) => number;
  inside: (place: number) => number;
}

export function placesOf(aligned: readonly number[] | null): Places {
  if (aligned === null) return { outside: (token) => token, inside: (place) => place };
  const back = new Map(aligned.map((token, place) => [token, place]));
  return { outside: (token) => back.get(token) ?? -1, inside: (place) => aligned[place] ?? -1 };
}

/** How many tokens of this side stand before a place. */
export function countBefore({ inside }: Places, place: number): number {
  while (place > 0 && inside(place - 1) < 0) place--;
  return place === 0 ? 0 : inside(place - 1) + 1;
}

// ── the view ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A picture with prose beside it. */
interface Chapter {
  el: HTMLElement;
  told: HTMLElement;
}

function chapter(name: string, ...plate: Node[]): Chapter {
  const told = element("div", { class: "attn-told" });
  return { el: element("section", { class: `attn-chapter attn-of-${name}` }, element("div", { class: "attn-plate" }, ...plate), told), told };
}

/** Prose is all there is where nothing is `drawn`. */
function tell({ el, told }: Chapter, drawn: boolean, words: readonly HTMLElement[]): void {
  el.classList.toggle("attn-bare", !drawn);
  told.replaceChildren(...words);
}

/** What is on screen: a query of a head, with all that happens at it. */
type Computed = Omit<Subject, "key" | "names"> & { there: number };

class Steps {
  readonly #el: HTMLElement;
  readonly #state: State;
  readonly #tiles: Tiles;
  readonly #board: Switchboard;
  readonly #qk: Strips;
  readonly #values: Strips;
  readonly #out: Strips;
  readonly #keys: KeyTable;
  readonly #order = segmented<boolean>("Order of the dimensions", (sorted) => { this.#sorted = sorted; this.#trace(); });
  readonly #chapters: Record<"vectors" | "scores" | "sum" | "write", Chapter>;
  readonly #note = element("p", { role: "status" });
  readonly #instead = element("div");
  readonly #body: HTMLElement;

  #at: Shown | null = null;
  #wanted: string | null = null; // the head that is loading, or there
  #loading = new AbortController();
  #head: Head | null = null;
  #sharing = 1; // query heads that share its k and v
  #places = { queries: placesOf(null), keys: placesOf(null) };
  #names = { queries: new Names([]), keys: new Names([]) };
  #query: number | null = null; // a token on screen
  #mine: Hover | null = null; // what this view told the others the pointer is at
  #computed: Computed | null = null;
  #chosen: number | null = null; // keys of the head
  #hovered: number | null = null;
  #sorted = false;

  constructor({ el, state, tiles, signal }: ViewContext) {
    [this.#el, this.#state, this.#tiles] = [el, state, tiles];
    this.#board = new Switchboard(state, (query) => { this.#choose(query); }, signal);
    this.#qk = new Strips("Dimensions of q and k", signal);
    this.#values = new Strips("Dimensions of v", signal);
    this.#out = new Strips("Dimensions of what the head writes", signal);
    this.#keys = new KeyTable((key) => { this.#hover(key); }, (key) => { this.#chosen = key; this.#trace(); }, signal);
    this.#chapters = {
      vectors: chapter("vectors", this.#qk.el, this.#order.el),
      scores: chapter("scores", this.#keys.el),
      sum: chapter("sum", this.#values.el),
      write: chapter("write", this.#out.el),
    };
    this.#body = element("div", {}, ...Object.values(this.#chapters).map((one) => one.el));
    el.classList.add("attn-steps");
    el.append(this.#board.el, this.#note, this.#instead, this.#body);
    this.#tell("reading the vectors of this head …");

    const draw = perFrame(() => { this.#draw(); }, signal);
    state.on(["map", "side", "sort"], () => { this.#load(); }, signal);
    state.on("switches", draw, signal);
    state.on(["query", "pinned", "hover"], () => { this.#follow(); }, signal);
    state.on("step", () => { this.#follow(true); }, signal);
    onDress(el, draw, signal);
    listen(this.#instead, {
      click: ({ target }) => {
        const { layer, head } = target instanceof HTMLElement ? target.dataset : {};
        if (layer !== undefined) state.set({ layer: Number(layer), head: Number(head), heads: [] });
      },
    }, signal);
    atEnd(signal, () => {
      this.#loading.abort();
      if (this.#mine !== null) point(state, null);
    });
    this.#load();
  }

  // ── what is shown ──

  get #side(): 0 | 1 {
    return this.#state.get("side") === "b" && this.#tiles.other !== null ? 1 : 0;
  }

  get #part(): PartInfo {
    const { parts } = this.#tiles.meta;
    return parts.find(({ name }) => name === this.#at?.selection.part) ?? parts[0];
  }

  get #axes(): Axes {
    return axesOf(this.#tiles.meta, this.#part.name);
  }

  #load(): void {
    const at = shown(this.#state);
    if (at === null) return;
    this.#at = at;
    const { one, offered } = headsOf(at.selection, this.#part, this.#state.get("sort"));
    const wanted = JSON.stringify([this.#part.name, one ?? offered, this.#side]);
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    this.#loading.abort();
    if (one === null) this.#offer(offered);
    else void this.#fetch(one);
  }

  async #fetch([layer, at]: HeadAt): Promise<void> {
    const own = (this.#loading = new AbortController()).signal;
    const [part, side] = [this.#part, this.#side];
    try {
      const tiles = (side === 1 ? this.#tiles.other : null) ?? this.#tiles;
      const head = new Head(await tiles.get(`steps/${part.name}/${layer}/${at}`, { signal: own }));
      if (own.aborted) return;
      [this.#head, this.#computed] = [head, null];
    } catch (error) {
      if (own.aborted) return;
      this.#head = this.#computed = null;
      this.#wanted = null; // coming back to it tries again
      this.#tell(wordsOf(error));
      this.#drawn();
      return;
    }
    const { heads, kv_heads } = part.layers[layer];
    this.#sharing = kv_heads > 0 ? heads / kv_heads : 1;
    this.#places = { queries: placesOf(part.aligned?.queries[side] ?? null), keys: placesOf(part.aligned?.keys[side] ?? null) };
    const { queries: { labels }, keys } = this.#axes;
    if (this.#names.queries.labels !== labels || this.#names.keys.labels !== keys.labels) {
      this.#names = { queries: new Names(labels), keys: new Names(keys.labels) };
      this.#board.list(labels);
      this.#query = this.#chosen = null;
    }
    this.#follow(true);
  }

  /** In place of the steps: which heads there are to choose from. */
  #offer(offered: readonly HeadAt[]): void {
    this.#head = this.#computed = null;
    const buttons = offered.map(([layer, head]) => element("button", { type: "button", class: "attn-button", "data-layer": layer, "data-head": head }, `layer ${layer} · head ${head}`));
    this.#tell("The steps are those of one head: a mean over heads has no query, key and value of its own. Click a square of the matrix, or choose one:", ...buttons);
    this.#drawn();
  }

  /** Words in place of the steps; the steps, where there are none. */
  #tell(words: string | null, ...buttons: Node[]): void {
    this.#instead.hidden = words === null;
    this.#board.el.hidden = this.#note.hidden = this.#body.hidden = words !== null;
    this.#instead.replaceChildren(element("p", {}, words ?? ""), element("div", { class: "attn-ranking" }, ...buttons));
  }

  #drawn(): void {
    this.#el.dispatchEvent(new Event("attn-drawn", { bubbles: true }));
  }

  /** Which query: the one under a pointer elsewhere, set from Python, or pinned last; at first the last that sees anything. */
  #follow(anew = false): void {
    const hover = this.#state.get("hover");
    if (this.#head === null || (!anew && hover !== null && hover === this.#mine)) return;
    const moment = momentOf(this.#state, this.#axes.queries);
    const place = focusedQuery(this.#state, moment);
    const token = place === null || moment !== null ? place : tokenOf(this.#state, place);
    const before = this.#query;
    let query = token ?? (moment === null ? before : null) ?? this.#state.get("pinned").at(-1) ?? Infinity;
    if (query >= this.#axes.queries.labels.length) {
      query = this.#axes.queries.labels.length - 1;
      while (query > 0 && !this.#looks(query)) query--;
    }
    if (query === before && !anew && moment === null) return;
    this.#query = query;
    this.#hovered = null;
    this.#lock(false);
    this.#draw();
  }

  #looks(query: number): boolean {
    return this.#head?.looks(this.#places.queries.inside(query)) === true;
  }

  // ── drawing ──

  #compute(head: Head, query: number): Computed {
    const { queries, keys } = this.#axes;
    const moment = queries === keys ? momentOf(this.#state, queries) : null;
    const there = moment === null ? head.nk : Math.min(head.nk, Math.max(1, countBefore(this.#places.keys, moment.token))); // keys that exist
    const switches = this.#state.get("switches");
    const known = this.#computed?.query === query && this.#computed.there === there ? this.#computed : null;
    const own = known?.own ?? head.outcome(query, SWITCHES, there);
    const unscaled = known?.unscaled ?? (head.d === null || head.scale === 1 ? null : head.row(query, { ...SWITCHES, scale: false }, there));
    const now = changesOf(switches, head).length > 0 ? head.outcome(query, switches, there) : own;
    return { head, query, there, own, now, unscaled, switches, stages: stagesOf(head, own.row, switches), sharing: this.#sharing };
  }

  #draw(): void {
    const [head, query] = [this.#head, this.#query];
    if (head === null || query === null) return;
    const i = this.#places.queries.inside(query);
    if (this.#looks(query)) {
      const computed = (this.#computed = this.#compute(head, i));
      const { ramp: more, less } = paletteAt(this.#el);
      this.#el.style.setProperty("--mark", css(more[3]));
      this.#el.style.setProperty("--less", css(less[1]));
      this.#tell(null);
      this.#board.show(query, head, computed.own.row);
      this.#showNote(computed);
      this.#keys.show({ ...computed, chip: (j) => this.#chip(j), token: this.#places.keys.outside }, this.#traced(computed));
      this.#trace();
    } else {
      const lacks = i < 0 ? `is no token of ${this.#tiles.meta.sides?.[this.#side] ?? "this side"}` : "looks at no key: it is padding, or all is masked";
      this.#tell(`“${this.#names.queries.labels[query]}” ${lacks}. Choose another query.`);
      this.#board.el.hidden = false;
      this.#board.show(query, head, null);
    }
    this.#drawn();
  }

  #chip(j: number): HTMLElement {
    const token = this.#places.keys.outside(j);
    return token < 0 ? element("span", { class: "attn-chip" }, String(j)) : chip(this.#axes.keys, token);
  }

  /** What is changed, and whose vectors these are, where two attentions are compared. */
  #showNote(computed: Computed): void {
    const { own, now, switches } = computed;
    const { sides } = this.#tiles.meta;
    const [letter, name] = [this.#side === 0 ? "A" : "B", sides?.[this.#side]];
    const difference = this.#state.get("side") === "difference" ? "A difference has no vectors of its own. " : "";
    const whose = sides === null ? "" : `${difference}These are the steps of ${letter}${name === letter ? "" : `, ${name}`}. `;
    this.#note.hidden = own === now && whose === "";
    this.#note.className = own === now ? "attn-quiet" : "attn-changed";
    this.#note.replaceChildren(whose, ...(own === now ? [] : changeTold(computed, switches)));
    Object.assign(this.#el.dataset, {
      queryAt: this.#query, entropy: now.row.entropy, effective: now.row.effective, leak: now.row.leak, ownEntropy: own.row.entropy, ownEffective: own.row.effective,
      spreadDot: now.row.spread.dot, spreadScore: now.row.spread.score, moved: moved(own.row, now.row),
    });
  }

  // ── the key that is traced ──

  #traced({ own, now }: Compared): number | null {
    const { sees } = now.row;
    const there = (j: number | null): j is number => j !== null && j < sees.length && sees[j] !== ABSENT;
    const seen = sees.indexOf(ALLOWED); // where no weight is a number
    return [this.#hovered, this.#chosen].find(there) ?? [own, now].flatMap(({ row }) => largest(row.weight, 1)).at(0) ?? (seen < 0 ? null : seen);
  }

  /** Vectors and words of the traced key: all that a pointer in the table changes. */
  #trace(): void {
    const [computed, query] = [this.#computed, this.#query];
    const key = computed === null ? null : this.#traced(computed);
    this.#keys.trace(key);
    if (computed === null || query === null || key === null) return;
    const token = this.#places.keys.outside(key);
    const name: Piece[] = token < 0 ? [{ kind: "words", text: `key ${key}` }] : this.#names.keys.of(token);
    const subject: Subject = { ...computed, key, names: { query: this.#names.queries.of(query), key: name } };
    const { z, written } = computed.now;
    const { vectors, scores, sum, write } = this.#chapters;
    tell(vectors, computed.head.d !== null, vectorsTold(subject));
    tell(scores, true, scoresTold(subject));
    tell(sum, z !== null, [sumTold(subject)]);
    tell(write, written !== null, [writeTold(subject)]);
    write.el.hidden = z === null;
    this.#showVectors(subject);
    if (z !== null) this.#showSum(subject, z, written);
  }

  #showVectors({ head, query, key, now, switches: { positions }, names }: Subject): void {
    if (head.d === null) return;
    const vectors = (turned: boolean): [q: Numbers, k: Numbers, terms: Numbers] => {
      const [q, k] = [head.query(query, turned), head.key(key, turned)];
      return [q, k, products(q, k)];
    };
    const [q, k, terms] = vectors(positions);
    const own = positions || head.positions !== "rotary" ? null : vectors(true);
    this.#order.show([{ value: false, label: "in place" }, { value: true, label: "sorted", name: "sorted by their product" }], this.#sorted);
    this.#qk.show([
      { name: ["q ", ...spelled(names.query)], values: q, own: own?.[0] },
      { name: ["k ", ...spelled(names.key)], values: k, own: own?.[1] },
      { name: ["q × k"], values: terms, own: own?.[2], bars: true, said: `Σ ${figure(now.row.dot[key])}` },
    ], `${q.length} dimensions; orange is below 0`, (x) => `dimension ${x}: q ${figure(q[x])} × k ${figure(k[x])} = ${figure(terms[x])}${was(own?.[2], x)}`, this.#sorted ? descending(terms) : null);
  }

  #showSum({ head, key, own, now, names }: Subject, z: Numbers, written: Numbers | null): void {
    const of = own === now ? null : own;
    const [v, p] = [head.value(key), now.row.weight[key]];
    const weighted = v.map((x) => x * p);
    const most = reach(v);
    this.#values.show([
      { name: ["v ", ...spelled(names.key)], values: v, most },
      { name: [`× ${weightFigure(p)}`], values: weighted, most },
      { name: ["z = Σ"], values: z, own: of?.z },
    ], `${v.length} dimensions; v and its share on one scale, z on its own`, (x) => `dimension ${x}: v ${figure(v[x])} × ${weightFigure(p)} = ${figure(weighted[x])}; z ${figure(z[x])}${was(of?.z, x)}`);
    if (written === null) return;
    const strip: Strip = { name: ["W", element("sub", {}, "O"), " z"], values: written, own: of?.written };
    this.#out.show([strip], `${thousands(written.length)} dimensions of the residual stream`, (x) => `dimension ${x}: ${figure(written[x])}${was(of?.written, x)}`);
  }

  // ── pointer and keyboard ──

  /** While the pointer is in the table, what stands above it may grow but not shrink: lines stay under the pointer. */
  #lock(on: boolean): void {
    const { el } = this.#chapters.vectors;
    el.style.minHeight = on ? `${el.offsetHeight}px` : "";
  }

  #hover(key: number | null): void {
    if (key === this.#hovered) return;
    if (key !== null) this.#lock(true);
    this.#hovered = key;
    const token = key === null ? -1 : this.#places.keys.outside(key);
    this.#mine = token < 0 || this.#query === null ? null : { query: placeOf(this.#state, this.#query), key: this.#at?.groups.keys?.of[token] ?? token };
    point(this.#state, this.#mine);
    this.#trace();
  }

  #choose(query: number): void {
    const others = this.#state.get("pinned").slice(0, -1).filter((token) => token !== query);
    this.#state.set({ query, pinned: [...others, query], hover: null });
  }
}

const was = (own: Numbers | null | undefined, x: number): string => (own ? `, the model’s own ${figure(own[x])}` : "");
