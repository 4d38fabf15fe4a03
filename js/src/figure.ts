/** The view as a file: drawn for paper where there is a kernel, and as it stands on screen anywhere. */

import { element } from "./a11y.ts";
import type { State, ViewContext } from "./state.ts";
import { traitsOf } from "./state.ts";
import { listen } from "./until.ts";
import { headsKey, needArray, wordsOf } from "./wire.ts";

/** Buttons at the end of `el`. Returns what shows those that there is a kernel for. */
export function figure({ el, state, tiles, signal }: ViewContext): () => void {
  const button = (name: string, label: string): HTMLElement => element("button", { type: "button", class: "attn-button", "data-figure": name }, label);
  const width = element("input", { type: "text", inputmode: "decimal", size: 3, value: 85, "aria-label": "Width in millimetres" });
  const drawn = element("div", { class: "attn-row" }, "Figure", width, "mm", ...["svg", "pdf", "png"].map((format) => button(format, format.toUpperCase())));
  const said = element("span", { class: "attn-quiet", role: "status" });
  const group = element("div", { role: "group", "aria-label": "Save figure" }, drawn, element("div", { class: "attn-row" }, button("screen", "PNG of the screen"), said));
  el.append(group);

  const fromPython = async (format: string): Promise<Blob> => {
    const block = await tiles.get(`figure/${format}/${parseFloat(width.value) || 0}/${JSON.stringify(traitsOf(state))}`, { signal });
    return new Blob([needArray(block, "file", "u8", [-1]).data.slice()]);
  };
  const save = async (name: string): Promise<void> => {
    said.textContent = "drawing …";
    try {
      const root = name === "screen" ? group.closest<HTMLElement>(".attnwidget") : null;
      download(group, await (root === null ? fromPython(name) : onScreen(root)), `${nameOf(state)}.${root === null ? name : "png"}`);
      said.textContent = top === self ? "saved" : "saved, if this frame allows it; else open the page by itself";
    } catch (error) {
      said.textContent = wordsOf(error);
      show();
    }
  };
  const show = (): void => { drawn.hidden = !tiles.live; };
  listen(group, { click: ({ target }) => { if (target instanceof HTMLElement && target.dataset["figure"] !== undefined) void save(target.dataset["figure"]); } }, signal);
  listen(width, { keydown: (event) => { if (event.key !== "Escape") event.stopPropagation(); } }, signal); // letters are commands to notebooks
  return show;
}

/** "decoder-layer-1-head-0-arcs" */
export function nameOf(state: State): string {
  const [layer, head, heads] = [state.get("layer"), state.get("head"), state.get("heads")];
  const which = heads.length > 0 ? `heads-${headsKey({ layer, head, heads })}` : `layer-${layer ?? "all"}-head-${head ?? "all"}`;
  return `${state.get("part")}-${which}-${state.get("view")}`.replace(/[^\p{L}\p{N}.]+/gu, "-").slice(0, 100);
}

function download(el: HTMLElement, file: Blob, name: string): void {
  const link = element("a", { href: URL.createObjectURL(file), download: name, hidden: "" });
  el.append(link);
  link.click();
  link.remove();
  setTimeout(() => { URL.revokeObjectURL(link.href); }, 60_000); // some browsers ask first where it is to go
}

const UNSPEAKABLE = /[^\t\n\r -\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu; // in XML, lone surrogates included

/** Matrix and detail as they are drawn now, at twice the size: a copy of the elements, drawn as a picture in a picture. */
async function onScreen(root: HTMLElement): Promise<Blob> {
  const body = root.querySelector<HTMLElement>(".attn-body") ?? root;
  const copy = root.cloneNode(true) as HTMLElement;
  const copies = copy.querySelectorAll<HTMLElement>("*");
  root.querySelectorAll<HTMLElement>("*").forEach((one, n) => {
    const { style, children } = copies[n];
    if (one instanceof HTMLCanvasElement) {
      Object.assign(style, { width: `${one.offsetWidth}px`, height: `${one.offsetHeight}px`, background: `url(${one.toDataURL()}) 0 0 / 100% 100%` });
    }
    if (one.scrollTop === 0 && one.scrollLeft === 0) return;
    style.overflow = "hidden";
    for (const child of children) if (child instanceof HTMLElement) child.style.translate = `${-one.scrollLeft}px ${-one.scrollTop}px`;
  });
  copy.querySelector(".attn-menu")?.remove();
  Object.assign(copy.style, { width: `${root.offsetWidth}px`, borderColor: "transparent", borderRadius: "0", fontFamily: getComputedStyle(root).fontFamily });
  const [width, height] = [root.offsetWidth, body.offsetHeight];
  const markup = new XMLSerializer().serializeToString(copy).replace(UNSPEAKABLE, "\ufffd");
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 ${body.offsetTop + root.clientTop} ${width} ${height}"><foreignObject width="${width}" height="${root.offsetHeight}">${markup}</foreignObject></svg>`;
  try {
    const image = new Image(width, height);
    image.src = `data:image/svg+xml,${encodeURIComponent(svg)}`;
    await image.decode();
    const canvas = element("canvas", { width: 2 * width, height: 2 * height });
    canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve, reject) => { canvas.toBlob((file) => { if (file === null) reject(new Error()); else resolve(file); }); });
  } catch {
    throw new Error("This browser or this page does not allow a picture of the screen to be made. Take a screenshot.");
  }
}
