/** What is in focus, as a page: texts tinted by it, and pictures with weights over them. One pane for each axis. */

import { deltaText, element, Names, segmented, spelled, weightText } from "./a11y.ts";
import type { Piece } from "./a11y.ts";
import { perFrame, watchWidth } from "./draw.ts";
import { pinnedIn, point, togglePinned } from "./focus.ts";
import type { Heard } from "./heard.ts";
import type { Side } from "./layout.ts";
import { MASKED, strongest } from "./math.ts";
import { Picture } from "./overlay.ts";
import type { Patches } from "./patches.ts";
import { patchesOf, sharesOf } from "./patches.ts";
import { omitted, paddedSpecials, painting, Prose, tinting } from "./reading.ts";
import type { Axes, Moment, Shown, State, Traits, ViewContext } from "./state.ts";
import { momentOf, shown } from "./state.ts";
import { onDress, paletteAt } from "./theme.ts";
import type { Tinted } from "./tinted.ts";
import { tinted } from "./tinted.ts";
import type { Tiles } from "./tiles.ts";
import { atEnd } from "./until.ts";
import type { Axis } from "./wire.ts";

const NUMBERED = 5; // tokens that have their number written above them, and are named
const LEAST = 0.015; // of those, the least
const EVEN = 4; // times the uniform weight that the ramp of a picture reaches to at least

const say = (text: string): Piece => ({ kind: "words", text });

/** An axis on screen: its picture where it has one, and the text or the tokens beside it. */
interface Pane {
  side: Side;
  axis: Axis;
  names: Names;
  patches: Patches | null;
  prose: Prose | null;
  picture: Picture | null;
}

export class Pages {
  readonly #el: HTMLElement;
  readonly #state: State;
  readonly #tiles: Tiles;
  readonly #pictures: boolean;
  readonly #tinted: Tinted;
  readonly #draw: () => void;
  readonly #direction = segmented<Traits["direction"]>("Direction", (direction) => { this.#state.set({ direction, hover: null }); });
  readonly #scale = element("span");
  readonly #caption = element("p", { class: "attn-tinted" });
  readonly #texts = element("div", { class: "attn-texts" });
  readonly #under = element("div", { class: "attn-quiet attn-under" });

  #at: Shown | null = null;
  #axes: Axes | null = null;
  #panes: Pane[] = [];
  #ramp = ""; // what the legend shows
  #drawn = new AbortController(); // for these axes

  /** With `pictures`, patches are drawn as such; without, a picture is a word of the text. */
  constructor(context: ViewContext, pictures: boolean) {
    const { el, state, tiles, signal } = context;
    this.#el = el;
    this.#state = state;
    this.#tiles = tiles;
    this.#pictures = pictures;
    this.#draw = perFrame(() => { this.#show(); }, signal);
    this.#tinted = tinted(context, this.#draw);
    el.classList.add(pictures ? "attn-image" : "attn-text");
    el.append(element("div", { class: "attn-options" }, this.#direction.el, this.#scale), this.#caption, this.#texts, this.#under);
    state.on("map", () => { this.#load(); }, signal);
    state.on(["query", "step"], () => { this.#reveal(); }, signal);
    state.on(["direction", "scale", "pinned", "step"], this.#draw, signal);
    onDress(el, this.#draw, signal);
    watchWidth(el, this.#draw, signal);
    atEnd(signal, () => { this.#drawn.abort(); });
    this.#load();
  }

  #load(): void {
    const at = shown(this.#state);
    if (at === null || at === this.#at) return;
    this.#at = at;
    this.#tinted.load(at);
    if (at.axes.queries !== this.#axes?.queries || at.axes.keys !== this.#axes.keys) this.#arrange(at);
    this.#draw();
  }

  #arrange({ axes, map }: Shown): void {
    this.#axes = axes;
    this.#drawn.abort();
    this.#drawn = new AbortController();
    const { signal } = this.#drawn;
    const one = axes.queries === axes.keys;
    const left = new Set<string>();
    this.#panes = (one ? (["key"] as const) : (["query", "key"] as const)).map((side): Pane => {
      const axis = side === "query" ? axes.queries : axes.keys;
      const patches = this.#pictures ? patchesOf(axis) : null;
      const heard: Heard = { point: (token) => { this.#point(side, token); }, press: (token) => { this.#press(side, token); }, escape: () => { this.#state.set({ pinned: [] }); } };
      const hidden = paddedSpecials(map, axis, side);
      left.add(omitted(hidden));
      const prose = patches?.tokens.length === axis.labels.length ? null : new Prose(one ? "Text" : side === "query" ? "Text of the queries" : "Text of the keys", axis, one ? ["query", "key"] : [side], hidden, heard, signal);
      const picture = patches === null ? null : new Picture(patches, side, heard, signal);
      if (picture !== null && axis.picture !== null) {
        // A picture that cannot be had leaves the grid of its patches.
        this.#tiles.get(axis.picture, { signal }).then((block) => { picture.paint(block); this.#draw(); }, () => undefined);
      }
      return { side, axis, names: new Names(axis.labels), patches, prose, picture };
    });
    this.#texts.replaceChildren(...this.#panes.map(({ side, prose, picture }) => element("div", {},
      ...(one ? [] : [element("p", { class: "attn-quiet" }, side === "query" ? "queries: what looks" : "keys: what is looked at")]),
      ...[prose, picture].flatMap((each) => each?.el ?? []))));
    this.#under.textContent = [...left].filter((words) => words !== "").join(" · ");
    this.#under.hidden = this.#under.textContent === "";
  }

  #reveal(): void {
    const asked = this.#moment?.token ?? this.#state.get("query");
    if (asked !== null && this.#state.get("hover") === null) this.#panes.at(0)?.prose?.reveal(asked);
  }

  // ── what is in focus ──

  get #moment(): Moment | null {
    return this.#axes === null ? null : momentOf(this.#state, this.#axes.queries);
  }

  get #one(): boolean {
    return this.#panes.length === 1;
  }

  /** Words and patches on one axis: one kind looks, the other is looked at. */
  get #mixed(): boolean {
    return this.#one && this.#panes[0].patches !== null && this.#panes[0].axis.image.length > 0;
  }

  #point(side: Side, token: number | null): void {
    const receives = this.#state.get("direction") === "receives";
    const turned = this.#mixed && token !== null && this.#panes[0].patches?.of.has(token) === true;
    const key = this.#one ? receives !== turned : side === "key";
    point(this.#state, token === null ? null : key ? { query: null, key: token } : { query: token, key: null });
  }

  #press(side: Side, token: number): void {
    if ((this.#one || side === "query") && token < (this.#moment?.token ?? Infinity)) togglePinned(this.#state, token);
  }

  // ── drawing ──

  #show(): void {
    const at = this.#at;
    if (at === null) return;
    const [mixed, one, state, moment] = [this.#mixed, this.#one, this.#state, this.#moment];
    const direction = state.get("direction");
    this.#direction.el.hidden = !one;
    this.#direction.show([{ value: "attends", label: mixed ? "words look" : "attends to" }, { value: "receives", label: mixed ? "patches look" : "receives" }], direction);
    const through = this.#panes.some(({ picture }) => picture?.painted === true);

    const { map, axes } = at;
    const { signed } = map;
    const scale = state.get("scale");
    const palette = paletteAt(this.#el);
    const line = this.#tinted.line(one && !mixed && direction === "receives", (side, token) => this.#name(side, token));
    const { side, cells } = line;
    const { patches } = this.#pane(side);
    const shares = cells === null || patches === null ? null : sharesOf(cells, patches);
    const ranged = shares !== null && shares.most > 0 && (signed || scale === "linear" || scale === "sqrt");
    const most = ranged ? Math.min(1, Math.max(shares.most, signed ? 0 : EVEN / map.nk)) : 1; // weights that are all alike are no strong ones
    const written = (weight: number): string => (signed ? deltaText(weight) : shares !== null && weight >= 1e-4 && weight < 0.01 ? weight.toPrecision(2) : weightText(weight));
    const [words, paint] = [tinting(palette, scale, signed), painting(palette, scale, signed, most, through)];
    const allowed = (token: number): number => map.allowed(side === "key" ? (line.from[0] ?? map.nq - 1) : token);
    const pinned = pinnedIn(state, moment?.token ?? map.nq);
    const named = cells === null ? [] : Array.from(strongest(cells.map((cell, token) => (patches?.of.has(token) === true ? MASKED : cell)), 1, NUMBERED).indices).filter((token) => Math.abs(cells[token]) >= LEAST);
    const numbers = new Map(named.map((token) => [token, written(cells?.[token] ?? 0)]));
    for (const each of this.#panes) {
      const told = one || each.side === side;
      const asks = one || each.side === "query";
      const own = { ...line, cells: told ? cells : null, from: one || !told ? line.from : [] };
      each.picture?.draw({ line: own, tint: (weight, token) => paint.of(weight, allowed(token)), palette, pinned: asks ? pinned : [], written });
      each.prose?.show({
        cells: own.cells, pinned: asks ? pinned : [], focused: own.from, numbers: told ? numbers : new Map(), tint: (weight, token) => words.of(weight, allowed(token)),
        there: moment !== null && (asks || axes.queries === axes.keys) ? moment.token + 1 : Infinity,
      });
    }
    const parts: Piece[][] = [];
    const add = (weight: number, ...where: Piece[]): void => { parts.push([say(parts.length === 0 ? ": " : ", "), { kind: "number", text: written(weight) }, say(side === "key" ? " on " : " from "), ...where]); };
    if (shares !== null) add(shares.picture, say("the picture"));
    for (const token of named) add(cells?.[token] ?? 0, ...this.#name(side, token));
    const rest = (shares?.others ?? []).reduce((sum, { token, weight }) => (numbers.has(token) ? sum : sum + weight), 0);
    if (Math.abs(rest) >= 0.005) add(rest, say("other tokens"));
    this.#caption.replaceChildren(...spelled([...line.words, ...parts.flat()]));

    const ramp = JSON.stringify([palette, scale, signed, most, through]);
    if (ramp !== this.#ramp) this.#scale.replaceChildren((this.#pictures ? paint : words).legend());
    this.#ramp = ramp;
    this.#el.dispatchEvent(new Event("attn-drawn", { bubbles: true }));
  }

  #pane(side: Side): Pane {
    return this.#panes.find((each) => each.side === side) ?? this.#panes[0];
  }

  #name(side: Side, token: number): Piece[] {
    const { names, patches } = this.#pane(side);
    const patch = patches?.of.get(token);
    return patches === null || patch === undefined ? names.of(token) : [say(`patch ${Math.floor(patch / patches.cols)},${patch % patches.cols}`)];
  }
}
