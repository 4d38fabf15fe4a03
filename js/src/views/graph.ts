/** Tokens over the layers, inputs at the bottom, and where the weight of an output token is routed from layer to layer. */

import { element, Names, spelled, stepped, stepper, weightText } from "../a11y.ts";
import type { Piece } from "../a11y.ts";
import type { Source } from "../combine.ts";
import { mapOf } from "../combine.ts";
import { fit, perFrame, watchWidth } from "../draw.ts";
import { focusOf, pinnedIn, point, togglePinned } from "../focus.ts";
import { upTo } from "../grid.ts";
import { hear, tokenAt } from "../heard.ts";
import { chip } from "../label.ts";
import { cellsOf } from "../math.ts";
import type { Descent, Layers, Step } from "../paths.ts";
import { columnsOf, descend, keysOf } from "../paths.ts";
import type { Shown, State, ViewContext } from "../state.ts";
import { focusedQuery, momentOf, read, shown, tokenOf } from "../state.ts";
import type { Rgb } from "../theme.ts";
import { css, onDress, paletteAt, tints } from "../theme.ts";
import type { Tiles } from "../tiles.ts";
import { atEnd, listen } from "../until.ts";
import type { LayerInfo, Selection } from "../wire.ts";
import { mapKey, wordsOf } from "../wire.ts";

const WHOLE = 40; // tokens that are all shown; of more, only those on paths
const MOST = 8; // tokens of a layer that are followed further
const DRAWN = 2000; // edges without focus
const LARGE = 2 ** 20; // cells of a map from which on its rows are asked for, and not the map
const LEFT = 62; // room for the names of the layers
const SLANT = 84; // height of slanted tokens
const APART = 13; // pixels between slanted tokens

export function graph(context: ViewContext): void {
  new Graph(context);
}

class Graph {
  readonly #el: HTMLElement;
  readonly #state: State;
  readonly #tiles: Tiles;
  readonly #signal: AbortSignal;
  readonly #canvas = element("canvas", { "aria-hidden": "true" });
  readonly #names = element("div", { "aria-hidden": "true" });
  readonly #tops = element("div", { role: "group", "aria-label": "Output tokens" });
  readonly #bottoms = element("div", { role: "list", "aria-label": "Input tokens" });
  readonly #space = element("div", { class: "attn-layers" }, this.#canvas, this.#names, this.#tops, this.#bottoms);
  readonly #least = element("input", { type: "range", min: 0, max: 0.5, step: 0.01, value: 0.05, "aria-label": "Smallest weight of an edge" });
  readonly #leastText = element("output", {});
  readonly #token = stepper("token", (place) => { this.#state.set({ pinned: [tokenOf(this.#state, place)] }); });
  readonly #path = element("ol", { class: "attn-path" });
  readonly #said = element("p", { role: "status" });
  readonly #draw: () => void;

  #at: Shown | null = null;
  #bands: readonly LayerInfo[] = [];
  #whole = false; // all tokens are shown
  #sources = new Map<number, Promise<Source>>();
  #work = new AbortController(); // for these layers
  #turn = 0;
  #width = 0;
  #all: Step[] = []; // edges of all tokens, where they are few
  #from: number | null = null;
  #found: Descent | null = null;
  #trouble = "";
  #roving = 0;

  constructor(context: ViewContext) {
    const { el, state, tiles, signal } = context;
    this.#el = el;
    this.#state = state;
    this.#tiles = tiles;
    this.#signal = signal;
    this.#draw = perFrame(() => { this.#show(); }, signal);
    el.classList.add("attn-graph");
    el.append(
      element("div", { class: "attn-options" }, element("label", { class: "attn-control" }, "edges from", this.#least, this.#leastText), this.#token.el),
      element("div", { class: "attn-scroll" }, this.#space), this.#path, this.#said,
      element("p", { class: "attn-quiet" }, "Weights only: the residual stream, which carries every token straight up past each layer, is left out."),
    );
    const follow = perFrame(() => void this.#follow(), signal);
    const again = (): void => {
      void this.#overview();
      follow();
    };
    watchWidth(el, (width) => { this.#width = width; this.#draw(); }, signal);
    state.on("map", () => { this.#load(); }, signal);
    state.on(["threshold", "step"], again, signal);
    state.on("query", follow, signal);
    listen(this.#least, { input: again }, signal);
    focusOf(context).on(follow, signal);
    onDress(el, this.#draw, signal);
    atEnd(signal, () => { this.#work.abort(); });
    this.#listen();
    this.#load();
  }

  // ── layers ──

  #load(): void {
    const at = shown(this.#state);
    if (at === null || at === this.#at) return;
    this.#at = at;
    const { parts } = this.#tiles.meta;
    const part = parts.find(({ name }) => name === at.selection.part) ?? parts[0];
    this.#bands = at.axes.queries === at.axes.keys && !at.map.signed ? part.layers : []; // what one layer puts out goes into the next
    this.#whole = at.map.nq <= WHOLE;
    this.#work.abort();
    this.#work = new AbortController();
    this.#sources.clear();
    this.#all = [];
    this.#found = null;
    this.#trouble = "";
    this.#token.el.hidden = this.#whole || this.#bands.length === 0;
    void this.#overview();
    void this.#follow();
  }

  /** The weights of a layer: of the heads that are chosen in it, of the one that is chosen, or the mean of all. What fails is asked for again. */
  #source(layer: number, { selection, map, groups }: Shown): Promise<Source> {
    const { part, head, reduce, heads = [] } = selection;
    const own = heads.filter(([at]) => at === layer);
    const none = heads.length > 0 || head === null || head >= this.#bands[layer].heads;
    const wanted: Selection = { part, layer, head: none ? null : head, reduce, ...(own.length > 0 ? { heads: own } : {}) };
    const byRow = this.#tiles.live && groups.queries === null && map.nq * map.nk > LARGE;
    const known = this.#sources.get(layer) ?? read(this.#state, byRow ? rowwise(this.#tiles, map) : this.#tiles, wanted, this.#work.signal);
    this.#sources.set(layer, known);
    known.catch(() => { if (this.#sources.get(layer) === known) this.#sources.delete(layer); });
    return known;
  }

  get #layers(): Layers {
    const { signal } = this.#work;
    const at = this.#at;
    return {
      count: this.#bands.length,
      rows: async (layer, tokens) => {
        if (at === null || this.#bands[layer].absent !== null) return null;
        const source = await this.#source(layer, at);
        return Promise.all(tokens.map(async (token) => source.map.row(token) ?? source.row(token, signal)));
      },
    };
  }

  get #bound(): { share: number; least: number } {
    return { share: this.#state.get("threshold"), least: Number(this.#least.value) };
  }

  /** The edges of all tokens, where there are few tokens. */
  async #overview(): Promise<void> {
    const at = this.#at;
    const { signal } = this.#work;
    if (at === null || !this.#whole) return;
    const { share, least } = this.#bound;
    const layers = this.#layers;
    const tokens = upTo(momentOf(this.#state, at.axes.queries)?.token ?? at.map.nq);
    let trouble = "";
    const found = await Promise.all(this.#bands.map(async (_, layer): Promise<Step[]> => {
      try {
        const rows = (await layers.rows(layer, tokens)) ?? [];
        return rows.flatMap((row, query) => keysOf(row, share, least).map(([key, weight]) => ({ layer, query, key, weight })));
      } catch (error) {
        trouble = wordsOf(error);
        return [];
      }
    }));
    if (signal.aborted) return;
    this.#trouble = trouble;
    this.#all = found.flat().sort((a, b) => b.weight - a.weight).slice(0, DRAWN);
    this.#draw();
  }

  /** The paths of the token in focus. */
  async #follow(): Promise<void> {
    const at = this.#at;
    if (at === null) return;
    const turn = ++this.#turn;
    const { nq } = at.map;
    const moment = momentOf(this.#state, at.axes.queries);
    const token = focusedQuery(this.#state, moment) ?? pinnedIn(this.#state, moment?.token ?? nq).at(-1) ?? (this.#whole ? null : nq - 1);
    let found: Descent | null = null;
    if (token !== null && token < nq && this.#bands.length > 0) {
      try {
        found = await descend(token, this.#layers, { ...this.#bound, most: MOST });
        if (turn === this.#turn && this.#trouble !== "") {
          this.#trouble = "";
          void this.#overview(); // what it could not read may be there now
        }
      } catch (error) {
        if (turn === this.#turn) this.#trouble = wordsOf(error);
      }
    }
    if (turn !== this.#turn || this.#signal.aborted) return;
    this.#from = token;
    this.#found = found;
    this.#token.show(token ?? 0, nq);
    this.#draw();
  }

  // ── drawing ──

  #show(): void {
    const at = this.#at;
    if (at === null || this.#width === 0) return;
    this.#space.hidden = this.#bands.length === 0;
    if (this.#bands.length > 0) this.#picture(at);
    this.#say(at);
    this.#el.dispatchEvent(new Event("attn-drawn", { bubbles: true }));
  }

  #picture({ map, axes }: Shown): void {
    const [found, count] = [this.#found, this.#bands.length];
    const palette = paletteAt(this.#el);
    const steps = found?.steps ?? [];
    const columns = columnsOf(this.#whole ? upTo(map.nk) : [...(this.#from === null ? [] : [this.#from]), ...steps.map(({ key }) => key)], map.nk);
    const pitch = Math.min(76, (this.#width - LEFT - 50) / Math.max(1, columns.count));
    const slanted = pitch < 60;
    const head = (slanted ? SLANT : 26) + 6;
    const band = Math.min(64, Math.max(24, 400 / count));
    const height = 2 * head + band * count;
    const x = (token: number): number => LEFT + ((columns.at.get(token) ?? 0) + 0.5) * pitch;
    const y = (level: number): number => head + (count - level) * band;
    this.#space.style.height = `${height}px`;

    const pen = fit(this.#canvas, this.#width, height);
    const stroke = ({ layer, query, key }: Step, alpha: number, width: number): void => {
      const [x0, y0, x1, y1] = [x(query), y(layer + 1), x(key), y(layer)];
      const bend = (y1 - y0) * 0.45;
      pen.globalAlpha = alpha;
      pen.lineWidth = width;
      pen.beginPath();
      pen.moveTo(x0, y0);
      pen.bezierCurveTo(x0, y0 + bend, x1, y1 - bend, x1, y1);
      pen.stroke();
    };
    pen.fillStyle = css(palette.line);
    for (let level = 0; level <= count; level++) pen.fillRect(LEFT, y(level) - 0.5, columns.count * pitch, 1);
    pen.strokeStyle = css(palette.soft);
    pen.setLineDash([2, 3]); // layers that move nothing between tokens
    this.#bands.forEach(({ absent }, layer) => {
      if (absent !== null) for (const token of columns.at.keys()) stroke({ layer, query: token, key: token, weight: 1 }, 0.5, 1);
    });
    pen.setLineDash([]);
    const crowd = Math.min(1, (200 / Math.max(1, this.#all.length)) ** 0.5) * (found === null ? 1 : 0.25);
    for (const step of [...this.#all].reverse()) stroke(step, crowd * (0.12 + 0.6 * Math.sqrt(step.weight)), 0.8 + 1.6 * step.weight);
    const best = new Set(found?.best);
    const paint = (drawn: Iterable<Step>, colour: Rgb, dot: number, look: (weight: number) => readonly [alpha: number, width: number]): void => {
      pen.fillStyle = pen.strokeStyle = css(colour);
      for (const step of drawn) stroke(step, ...look(step.weight));
      pen.globalAlpha = 1;
      for (const { layer, query, key } of drawn) {
        for (const [cx, cy] of [[x(query), y(layer + 1)], [x(key), y(layer)]]) {
          pen.beginPath();
          pen.arc(cx, cy, dot, 0, 2 * Math.PI);
          pen.fill();
        }
      }
    };
    paint(steps.filter((step) => !best.has(step)), palette.ink, 2.2, (weight) => [0.16 + 0.6 * Math.sqrt(weight), 0.8 + 3 * weight]);
    paint(best, palette.accent, 3.5, (weight) => [1, 1.6 + 3.4 * weight]);
    pen.fillStyle = css(palette.soft);
    for (const gap of columns.gaps) for (let level = 0; level < count; level++) pen.fillText("…", LEFT + (gap + 0.5) * pitch - 4, y(level) + 3);

    this.#names.replaceChildren(...this.#bands.map(({ absent }, layer) =>
      element("span", { class: "attn-place", style: `top: ${y(layer) - band / 2 - 8}px`, title: absent ?? "" }, absent ?? `layer ${layer}`)));
    const shares = new Map(found?.reached.map(({ token, share }) => [token, share]));
    const ends = [this.#from, found?.best.at(-1)?.key];
    const rank = (token: number): number => Number(ends.includes(token)) + (shares.get(token) ?? 0);
    const pinned = pinnedIn(this.#state, map.nq);
    const kept = this.#tops.contains(document.activeElement);
    this.#roving = Math.min(this.#roving, map.nq - 1);
    const labels = (side: "top" | "bottom", tokens: Iterable<number>, chosen: (token: number) => boolean, hooks: (token: number) => Readonly<Record<string, string | number>>): HTMLElement[] =>
      (slanted ? roomy(tokens, x, (token) => (side === "top" && token === this.#roving ? Infinity : rank(token))) : [...tokens]).map((token) => {
        const style = `--x: ${x(token)}px; --y: ${side === "top" ? y(count) - 9 : y(0) + 9}px; --room: ${slanted ? 84 : pitch - 4}px`;
        return element("div", { class: `attn-node attn-${side}${slanted ? " attn-tilted" : ""}${chosen(token) ? " attn-on" : ""}`, style, ...hooks(token) }, chip(axes.keys, token));
      });
    this.#tops.replaceChildren(...labels("top", this.#whole ? columns.at.keys() : ends.slice(0, 1).filter((token) => token !== null && token !== undefined), (token) => token === this.#from || pinned.includes(token), (token) => ({
      role: "button", "data-query": token, "aria-pressed": String(pinned.includes(token)), tabindex: token === this.#roving || !this.#whole ? 0 : -1,
    })));
    this.#bottoms.replaceChildren(...labels("bottom", columns.at.keys(), (token) => token === ends[1], (token) => ({ role: "listitem", "data-key": token })));
    const tint = tints(palette);
    for (const [token, share] of shares) {
      const made = this.#bottoms.querySelector<HTMLElement>(`[data-key="${token}"]`);
      made?.setAttribute("data-weight", String(share));
      made?.querySelector<HTMLElement>(".attn-chip")?.style.setProperty("background-color", tint(share));
    }
    if (kept) this.#tops.querySelector<HTMLElement>(`[data-query="${this.#roving}"]`)?.focus({ preventScroll: true });
  }

  #say({ map, axes }: Shown): void {
    const names = new Names(axes.keys.labels);
    const found = this.#found;
    this.#leastText.textContent = Number(this.#least.value).toFixed(2);
    this.#path.replaceChildren(...(found === null || this.#from === null ? [] : [
      element("li", { "data-product": found.product }, ...spelled([tell("strongest path, product "), { kind: "number", text: found.product < 0.01 ? found.product.toPrecision(2) : weightText(found.product) }, tell(": "), ...names.of(this.#from)])),
      ...found.best.map(({ layer, query, key, weight }) => element("li", { "data-layer": layer, "data-query": query, "data-key": key, "data-weight": weight }, ...spelled([
        tell(this.#bands[layer].absent === null ? "→ " : "⇢ "), { kind: "number", text: weightText(weight) }, tell(" "), ...names.of(key),
      ]))),
    ]));
    const say: Piece[] = [tell(this.#trouble === "" ? "" : `${this.#trouble} `)];
    if (map.signed) say.push(tell("A difference of weights has no paths to follow. Choose one of the two sides."));
    else if (this.#bands.length === 0) say.push(tell("Queries and keys are different tokens here, so one layer does not lead into the next: the arcs show each of them."));
    else if (found === null) say.push(tell("Point at a token on top to follow its weight down to the inputs."));
    else if (found.reached.length === 0) say.push(tell("No weight comes from here down to the inputs."));
    else {
      const first = found.reached.slice(0, 3);
      first.forEach(({ token, share }, n) => { say.push(tell(n === 0 ? "Along all paths " : ", "), { kind: "number", text: weightText(share) }, tell(n === 0 ? " comes to " : " to "), ...names.of(token)); });
      const rest = first.reduce((left, { share }) => left - share, 1);
      if (rest >= 0.005) say.push(tell(`, ${weightText(rest)} to others or along edges too weak to follow.`));
    }
    const said = element("p", {}, ...spelled(say));
    if (this.#said.textContent !== said.textContent) this.#said.replaceChildren(...said.childNodes);
  }

  // ── pointer and keyboard ──

  #listen(): void {
    listen(this.#el, {
      keydown: () => { this.#said.ariaLive = "polite"; },
      pointermove: () => { this.#said.ariaLive = "off"; }, // nobody is told what the pointer passes
    }, this.#signal, { capture: true });
    hear(this.#tops, {
      point: (token) => { if (this.#whole) point(this.#state, token === null ? null : { query: token, key: null }); },
      press: (token) => { togglePinned(this.#state, token); },
      escape: () => { this.#state.set({ pinned: [] }); },
    }, { at: tokenAt, to: (key, token) => stepped(key, this.#whole ? this.#roving : token, this.#at?.map.nq ?? 0), go: (to) => { this.#go(to); } }, this.#signal);
  }

  #go(to: number): void {
    this.#roving = to;
    if (this.#whole) point(this.#state, { query: to, key: null });
    else if (to !== this.#from) return this.#state.set({ pinned: [tokenOf(this.#state, to)] });
    for (const each of this.#tops.querySelectorAll<HTMLElement>("[data-query]")) {
      each.tabIndex = Number(each.dataset["query"]) === to ? 0 : -1;
      if (each.tabIndex === 0) each.focus({ preventScroll: true });
    }
  }
}

const tell = (text: string): Piece => ({ kind: "words", text });

/** Tiles whose maps are as large as `like` and empty: each row is asked for by itself, and no map with it. */
export function rowwise(tiles: Tiles, like: Shown["map"]): Parameters<typeof read>[1] {
  const line = (want: "row" | "column") => async (of: Selection, at: number, signal?: AbortSignal) => cellsOf(await tiles.get(`${want}/${mapKey(of)}/${at}`, signal && { signal }));
  return {
    meta: tiles.meta, row: line("row"), column: line("column"),
    map: () => Promise.resolve(mapOf(like, () => undefined, { pooled: true })),
    other: tiles.other && rowwise(tiles.other, like),
  };
}

/** The tokens that have room for their slanted label: the first in `rank` before others. */
function roomy(tokens: Iterable<number>, x: (token: number) => number, rank: (token: number) => number): number[] {
  const taken: number[] = [];
  for (const token of [...tokens].sort((a, b) => rank(b) - rank(a))) if (taken.every((other) => Math.abs(x(other) - x(token)) >= APART)) taken.push(token);
  return taken.sort((a, b) => a - b);
}
