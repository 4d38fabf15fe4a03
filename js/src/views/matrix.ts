/** Every head at once: layers down, heads across, real patterns, and what they come to on average along both margins. */

import { counted, element, segmented, selectionText, thousands, valueText } from "../a11y.ts";
import { boardOf } from "../board.ts";
import { choosing, frameElement } from "../choosing.ts";
import { Closeups } from "../closeups.ts";
import { fit, paintOf, perFrame, pixelRatio, watchWidth } from "../draw.ts";
import { gestures } from "../gestures.ts";
import type { Cell } from "../grid.ts";
import { cellsIn, exists, placesIn, sameCell, shapeOf, sharing, windowsDiffer, windowsOf } from "../grid.ts";
import { drawHeaders } from "../headers.ts";
import { Card, legend } from "../label.ts";
import { lensOf } from "../lens.ts";
import { GLYPH, Mosaic, scoreOf, veil, WHOLE } from "../mosaic.ts";
import type { Picture, Scene } from "../mosaic.ts";
import { sorting, titleOf } from "../sorting.ts";
import type { ViewContext } from "../state.ts";
import { read } from "../state.ts";
import { css, gradient, onDress, paletteAt } from "../theme.ts";
import { codesOf, inksOf, paintThumb, thumbsOf } from "../thumbs.ts";
import type { Thumbs } from "../thumbs.ts";
import { atEnd, listen } from "../until.ts";
import type { PartInfo, Reduce } from "../wire.ts";
import { wordsOf } from "../wire.ts";

const PREVIEW = 96; // pixels of the picture of a head that is small itself
const SMALL = 24; // pixels of such a head, at most
const REDUCTIONS = ([["mean", "mean"], ["max", "max: the largest weight"], ["min", "min: the smallest weight"]] as const).map(([value, words]) => ({
  value, label: value, name: `${words}, in the margins and of the heads that are chosen`,
}));

export function matrix(context: ViewContext): void {
  const { el, state, tiles, signal } = context;
  const wantedPart = (): PartInfo => tiles.meta.parts.find(({ name }) => name === state.get("part")) ?? tiles.meta.parts[0];

  let part = wantedPart();
  let thumbs: Thumbs | null = null;
  let scene: Scene | null = null;
  let picture: Picture | null = null;
  let width = 0;
  let anew = true; // at the size to begin with
  let hover: Cell | null = null;
  let font = "";
  let trouble = "";

  const caption = element("div", { class: "attn-caption" });
  const reduce = segmented<Reduce>("Several heads, and the averages in the margins", (by) => { state.set({ reduce: by }); });
  const [canvas, axes] = [element("canvas", { "aria-hidden": "true" }), element("canvas", { "aria-hidden": "true" })];
  const hovered = frameElement("attn-hovered");
  const note = element("p", { class: "attn-quiet", role: "status" });
  const key = element("div");
  const preview = element("canvas");

  const sorted = sorting(context, part, { order: () => { layOut(); }, least: () => { repaint(); } });
  const board = boardOf(
    (cell) => ({ name: told(cell).join(", "), value: scoreOf(sorted.scored, cell), chosen: choice.chosen.some((other) => sameCell(other, cell)) }),
    (corner) => { lens.reveal(corner); },
  );
  const lens = lensOf(board.el, () => board.cornerOf(board.active), () => { layOut(); draw(); });
  const choice = choosing({ state, board, lens, order: () => sorted.order, brushed: () => { point(null); describe(); }, say }, signal);
  const card = new Card(lens.el);
  const mosaic = new Mosaic();
  const drawSoon = perFrame(draw, signal);
  const closeups = new Closeups(async ({ layer, head }, until) => {
    const { map } = await read(state, tiles, { part: part.name, layer, head, reduce: state.get("reduce") }, until);
    return map;
  }, drawSoon);

  // ── what is shown ──

  async function load(): Promise<void> {
    const side = tiles.other === null ? null : state.get("side");
    anew ||= part !== wantedPart();
    part = wantedPart();
    if (anew) thumbs = null;
    say("");
    closeups.forget();
    sorted.show(part);
    if (hover !== null && !exists(hover, sorted.order)) hover = null;
    layOut();
    const mine = part;
    const from = side === "b" ? (tiles.other ?? tiles) : tiles;
    const got = await from.get(`thumbs/${part.name}${side === "difference" ? "/difference" : ""}`).then(thumbsOf).catch(wordsOf);
    if (signal.aborted || mine !== part || (side !== null && side !== state.get("side"))) return;
    const missing = typeof got === "string";
    thumbs = missing ? null : got;
    if (missing) say(got);
    repaint();
  }

  function layOut(): void {
    if (width === 0) return;
    lens.layOut(shapeOf(part, sorted.order), width, anew);
    board.show(lens.grid, sorted.order);
    if (anew) choice.home();
    anew = false;
    choice.show(false);
    board.frame(hovered, hover);
    card.hide();
    describe();
    repaint();
  }

  /** Paints everything anew: other numbers, colours or sizes. */
  function repaint(): void {
    if (width === 0) return;
    const palette = paletteAt(el);
    font = `11px ${getComputedStyle(el).fontFamily}`;
    const scale = state.get("scale");
    closeups.dress((map) => paintOf(palette, scale, map.signed));
    scene = { grid: lens.grid, order: sorted.order, palette, reduce: state.get("reduce"), scored: sorted.scored, ratio: pixelRatio() };
    picture = thumbs === null ? null : { ...scene, thumbs, inks: inksOf(thumbs, part, palette, scale) };
    mosaic.show(picture);
    key.replaceChildren(legend(palette, thumbs?.signed === true ? "difference" : scale, [...scoreLegend(scene), ...windowNotes(part)]));
    draw();
  }

  function draw(): void {
    if (scene === null) return;
    const view = lens.window;
    const { x, y, width: wide, height } = view;
    const head = fit(axes, wide, height);
    head.font = font;
    drawHeaders(head, scene, view);
    const pen = fit(canvas, wide, height);
    if (picture === null) return;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    const places = placesIn(scene.grid, x, y, x + wide, y + height);
    mosaic.draw(pen, places, x, y);
    drawMaps(pen, scene, scene.grid.cell < WHOLE ? [] : cellsIn(scene.order, places), x, y);
  }

  function drawMaps(pen: CanvasRenderingContext2D, at: Scene, cells: readonly Cell[], x: number, y: number): void {
    const { grid, ratio, palette } = at;
    const size = Math.round(grid.cell * ratio);
    closeups.want(cells, size);
    pen.imageSmoothingEnabled = false;
    for (const cell of cells) {
      const image = closeups.pictureOf(cell);
      if (image === null) continue;
      const [across, down] = board.cornerOf(cell);
      const [left, top] = [Math.round((across - x) * ratio), Math.round((down - y) * ratio)];
      pen.fillStyle = css(palette.line);
      pen.fillRect(left, top, size, size);
      pen.drawImage(image, left, top, size, size);
      veil(pen, at, cell, left, top, size);
    }
    showNote();
  }

  // ── words ──

  /** "Layer 7", "head 10", and what else is known of it. */
  function told(cell: Cell): string[] {
    const { layer, head } = cell;
    const words = selectionText({ ...cell, reduce: state.get("reduce") }, part).split(" · ");
    if (layer === null || head === null) return words;
    const value = scoreOf(sorted.scored, cell);
    const info = part.layers[layer];
    const group = sharing(info).findIndex(([from, to]) => head >= from && head < to);
    if (sorted.scored !== null) words.push(`${titleOf(sorted.scored.measure)} ${value === null ? "unknown" : valueText(value)}`);
    if (group >= 0) words.push(`K/V ${group}`);
    if (info.window !== null) words.push(`local ${thousands(info.window)}`);
    return words;
  }

  /** What stands in the way. */
  function say(words: string): void {
    trouble = words;
    showNote();
  }

  function showNote(): void {
    const missing = closeups.failures();
    const words = trouble !== "" || missing === 0 ? trouble : `${counted(missing, "head")} in sight as thumbnails only: ${missing === 1 ? "its map is" : "their maps are"} not here.`;
    if (note.textContent !== words) note.textContent = words;
  }

  function describe(): void {
    reduce.show(REDUCTIONS, state.get("reduce"));
    const count = state.get("heads").length;
    const pointed = hover === null ? null : [...told(hover), closeups.failure(hover) ?? []].flat().join(" · ");
    const words = choice.brushing ?? pointed ?? (count > 1 ? `${counted(count, "head")} chosen · ${state.get("reduce")}` : null);
    caption.textContent = words ?? "Layers × heads";
    caption.classList.toggle("attn-strong", words !== null);
  }

  // ── pointer ──

  function point(cell: Cell | null): void {
    if (sameCell(cell, hover)) return;
    hover = cell;
    board.frame(hovered, cell);
    describe();
    if (cell === null || picture === null || picture.grid.cell >= SMALL) card.hide();
    else showPreview(cell, picture);
  }

  /** Heads that are too small to read are shown larger beside the pointer, or the keyboard. */
  function showPreview(cell: Cell, { thumbs: from, inks, reduce: by, grid }: Picture): void {
    const pen = fit(preview, PREVIEW, PREVIEW);
    const { width: wide, height } = preview;
    const image = new ImageData(wide, height);
    paintThumb(from, codesOf(from, cell, by), inks(cell.layer), { pixels: new Uint32Array(image.data.buffer), stride: wide, at: 0, width: wide, height });
    pen.putImageData(image, 0, 0);
    const [left, top] = board.cornerOf(cell);
    const { x, y } = lens.window;
    card.show([element("div", { class: "attn-row" }, preview, element("div", {}, ...told(cell).map((line) => element("div", {}, line))))], left + grid.cell - x, top - y);
  }

  // ── what happens ──

  const moves = gestures(lens.sight, { zoom: (factor, x, y) => { lens.stretch(factor, x, y); }, pan: (dx, dy) => { lens.sight.scrollBy(-dx, -dy); }, movable: () => lens.movable && !choice.held }, signal);
  listen(lens.sight, { scroll: () => { drawSoon(); card.hide(); } }, signal, { passive: true });
  listen(board.el, {
    pointermove: (event) => { if (!choice.held || event.buttons === 0) point(moves.dragging ? null : board.under(event)); },
    pointerleave: () => { point(null); },
    focusout: () => { point(null); },
    focusin: ({ target }) => { if (target instanceof HTMLElement && target.matches(":focus-visible")) point(board.active); },
  }, signal);
  const [by, least] = sorted.controls;
  board.el.prepend(element("div", { class: "attn-stuck" }, canvas));
  board.el.append(hovered, element("div", { class: "attn-stuck attn-over" }, axes));
  el.append(element("div", { class: "attn-above" }, caption, lens.zoom, ...by, reduce.el, ...least), lens.el, key, note);
  atEnd(signal, () => { closeups.forget(); });

  watchWidth(el, (room) => {
    width = room;
    layOut();
  }, signal);
  onDress(el, repaint, signal);
  state.on(["part", "side"], () => void load(), signal);
  state.on(["layer", "head", "heads", "overlay"], () => {
    if (width === 0) return;
    choice.home();
    choice.show(true);
    say("");
    describe();
  }, signal);
  state.on("reduce", () => {
    closeups.forget();
    board.refresh();
    describe();
    repaint();
  }, signal);
  state.on(["group", "expanded", "step"], () => {
    closeups.forget();
    drawSoon();
  }, signal);
  state.on("scale", repaint, signal);
  void load();
}

/** What the marks of what heads are sorted by stand for. */
function scoreLegend({ scored, grid, palette }: Scene): Node[] {
  if (scored === null) return [];
  const [low, high] = scored.range.map(valueText);
  const sign = grid.cell < GLYPH ? element("i", { class: "attn-ramp", style: `background: ${gradient(palette, "linear")}` }) : element("i", { class: "attn-bar-sign" });
  return [element("span", { title: scored.measure.title }, `${titleOf(scored.measure)} ${low}`, sign, high)];
}

/** What the badges stand for. */
function windowNotes(part: PartInfo): Node[] {
  const windows = windowsOf(part);
  const local = windows.filter((window) => window !== null).sort((a, b) => a - b).map(thousands).join(" · ");
  const badge = (name: string, sign: string, words: string): Node => element("span", {}, element("i", { class: `attn-reach ${name}` }, sign), words);
  if (local === "") return [];
  if (!windowsDiffer(part)) return [element("span", {}, `every layer looks back ${local} tokens`)];
  return [badge("attn-local", "L", `local, ${local} tokens`), ...(windows.includes(null) ? [badge("attn-global", "G", "global")] : [])];
}
