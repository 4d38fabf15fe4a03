/**
 * Colours: from the host where it has any, checked for contrast, and the ramps that turn weights into colour.
 *
 * A ramp starts at the ground and gets further from it as the weight grows, in light and in dark. Steps between its
 * stops are taken in OKLab, so lightness is monotone and even to the eye (a test holds every ramp to that).
 */

import { atEnd, listen } from "./until.ts";

export type Rgb = readonly [red: number, green: number, blue: number]; // 0…255
export type ThemeName = "light" | "dark";
export type Scale = "linear" | "sqrt" | "log" | "uniform";
/** What a ramp stands for: weights on a scale, or the differences of weights. */
export type Shade = Scale | "difference";

export interface Palette {
  theme: ThemeName;
  ground: Rgb;
  panel: Rgb;
  line: Rgb;
  ink: Rgb;
  soft: Rgb;
  accent: Rgb;
  /** Weight 0 … 1, five stops or more. */
  ramp: readonly Rgb[];
  /** Below uniform, furthest first, towards the first stop of `ramp`. Quieter than `ramp`: most cells are below. */
  below: readonly Rgb[];
  /** Less than nothing, where two maps are subtracted: furthest first, towards the first stop of `ramp`. */
  less: readonly Rgb[];
  /** Several heads in one picture, told apart by everybody, colour-blind or not, and 3 : 1 on the ground (a test holds them to both). */
  several: readonly Rgb[];
}

const hexes = (text: string): Rgb[] =>
  text.split(" ").map((digits) => {
    const value = Number.parseInt(digits, 16);
    return [value >> 16, (value >> 8) & 255, value & 255];
  });

const ROLES = ["ground", "panel", "line", "ink", "soft", "accent"] as const;

function palette(theme: ThemeName, roles: string, ramp: string, below: string, less: string, several: string): Palette {
  const [ground, panel, line, ink, soft, accent] = hexes(roles);
  return { theme, ground, panel, line, ink, soft, accent, ramp: hexes(ramp), below: hexes(below), less: hexes(less), several: hexes(several) };
}

export const PALETTES: Readonly<Record<ThemeName, Palette>> = {
  light: palette(
    "light", "ffffff fafbfc dfe3e8 1d232b 5b6673 c4621a",
    "f4f3ee bcd8d3 56a1aa 205f8a 15204a", "a67c3d dcc79f", "5a2703 a9571a d99a5b f0d5b5",
    "3488e3 e75508 196560 c16e95 5e3800 1a1e1e",
  ),
  dark: palette(
    "dark", "14171c 191d23 2b323b e7ebf0 9aa6b4 f0a35e",
    "1b2027 1d3b52 2a7287 74bfa8 f2f0c4", "94774a 4a3c27", "ffe0b8 e39a52 94591f 4b3018",
    "559dec e76000 00e1b9 aa6f8a eeb805 ffffff",
  ),
};

// ── colour arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────

const toLinear = (channel: number): number => {
  const c = channel / 255;
  return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
};
const fromLinear = (c: number): number => {
  const clipped = Math.min(1, Math.max(0, c));
  return 255 * (clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055);
};

type Lab = [lightness: number, a: number, b: number];

/** OKLab (Björn Ottosson, 2020). Lightness is 0 … 1. */
export function oklab(colour: Rgb): Lab {
  const [r, g, b] = colour.map(toLinear);
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function fromOklab([lightness, a, b]: Lab): Rgb {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    fromLinear(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    fromLinear(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    fromLinear(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s),
  ];
}

/** From `from` (0) to `to` (1), in OKLab. */
export function mix(from: Rgb, to: Rgb, share: number): Rgb {
  const q = oklab(to);
  return fromOklab(oklab(from).map((p, i) => p + (q[i] - p) * share) as Lab);
}

function luminance(colour: Rgb): number {
  const [r, g, b] = colour.map(toLinear);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Contrast of two colours, 1 … 21 (WCAG 2). */
export function contrast(one: Rgb, other: Rgb): number {
  const [p, q] = [luminance(one), luminance(other)];
  return (Math.max(p, q) + 0.05) / (Math.min(p, q) + 0.05);
}

export const css = ([r, g, b]: Rgb, alpha = 1): string => `rgb(${Math.round(r)} ${Math.round(g)} ${Math.round(b)} / ${alpha})`;

/** `colour`, moved towards `ink` as far as needed to stand out from `ground`. */
function standOut(colour: Rgb, ground: Rgb, ink: Rgb, wanted: number): Rgb {
  for (let share = 0; share < 1; share += 0.1) {
    const candidate = mix(colour, ink, share);
    if (contrast(candidate, ground) >= wanted) return candidate;
  }
  return ink;
}

/** How much of the accent may lie behind text, at most. */
export function strongestTint({ ground, accent, ink }: Palette): number {
  let share = 0.48;
  while (share > 0.1 && contrast(ink, over({ rgb: accent, alpha: share }, ground)) < 4.5) share -= 0.02;
  return share;
}

/** Grounds for tokens by weight. */
export function tints(palette: Palette): (weight: number) => string {
  const most = strongestTint(palette);
  return (weight) => css(palette.accent, 0.08 + (most - 0.08) * Math.min(1, weight) ** 0.6);
}

// ── ramps and scales ────────────────────────────────────────────────────────────────────────────────────────────────

/** 256 colours as the 32-bit pixels of an ImageData (alpha 255, little-endian). */
export type Lut = Uint32Array;

export const pixel = ([r, g, b]: Rgb): number => ((255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;

/** The colour at `share` (0 … 1) of evenly spaced `stops`. */
export function along(stops: readonly Rgb[], share: number): Rgb {
  const at = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const below = Math.min(stops.length - 2, Math.floor(at));
  return mix(stops[below], stops[below + 1], at - below);
}

const stopsOf = (palette: Palette, shade: Shade): readonly Rgb[] => {
  if (shade !== "uniform" && shade !== "difference") return palette.ramp;
  const arm = [0, 0.25, 0.5, 0.75, 1];
  const below = [...(shade === "uniform" ? palette.below : palette.less), palette.ramp[0]];
  return [...arm.map((share) => along(below, share)), ...arm.slice(1).map((share) => along(palette.ramp, share))];
};

export function ramp(palette: Palette, shade: Shade): Lut {
  const stops = stopsOf(palette, shade);
  return Uint32Array.from({ length: 256 }, (_, i) => pixel(along(stops, i / 255)));
}

/** A CSS gradient of the ramp, from left to right. */
export function gradient(palette: Palette, shade: Shade): string {
  const stops = stopsOf(palette, shade);
  return `linear-gradient(to right, ${Array.from({ length: 17 }, (_, i) => css(along(stops, i / 16))).join(", ")})`;
}

/** What differences are painted with: 0 is the most below nothing, 1 the most above. */
export const signedColourAt = (palette: Palette, share: number): Rgb => along(stopsOf(palette, "difference"), share);

const OCTAVES = 16; // the log scale reaches down to 2⁻¹⁶
const LIFT = 4; // the uniform scale reaches from 1/2⁴ to 2⁴ times uniform

/** Where weight `p` lies on the ramp, 0 … 1. `allowed` keys share the row; only "uniform" asks for it. */
export function level(p: number, scale: Scale, allowed: number): number {
  const at = scale === "linear" ? p : scale === "sqrt" ? Math.sqrt(p) : scale === "log" ? 1 + Math.log2(p) / OCTAVES : 0.5 + Math.log2(p * allowed) / (2 * LIFT);
  return Math.min(1, Math.max(0, at));
}

/** Where a difference lies on the diverging ramp: 0 is −1, ½ is none, 1 is +1. Equal sizes are equally far from the middle. */
export function signedLevel(delta: number, scale: Scale): number {
  const size = Math.min(1, scale === "linear" ? Math.abs(delta) : Math.sqrt(Math.abs(delta)));
  return 0.5 + (Math.sign(delta) * size) / 2;
}

export interface Legend {
  low: string;
  high: string;
  name: string;
}

export const LEGENDS: Readonly<Record<Shade, Legend>> = {
  linear: { low: "0", high: "1", name: "weight, linear scale" },
  sqrt: { low: "0", high: "1", name: "weight, square-root scale" },
  log: { low: "2⁻¹⁶", high: "1", name: "weight, log₂ scale" },
  uniform: { low: "1/16", high: "16", name: "× the uniform weight, 1× in the middle" },
  difference: { low: "−1", high: "+1", name: "difference of weights, none in the middle" },
};

// ── the host ────────────────────────────────────────────────────────────────────────────────────────────────────────

type Host = "jupyter" | "vscode" | "page";

const THEMES = ["dark", "light"] as const;
const classesOf = (theme: ThemeName): string[] => [theme, `${theme}-theme`, `theme-${theme}`, `quarto-${theme}`, `${theme}-mode`];
const THEME_ATTRIBUTES = ["data-theme", "data-bs-theme", "data-color-mode", "data-color-scheme", "data-mode"];

function hostOf(body: HTMLElement): Host {
  if ([...body.classList].some((name) => name.startsWith("vscode-"))) return "vscode";
  return body.hasAttribute("data-jp-theme-light") || getComputedStyle(body).getPropertyValue("--jp-layout-color0") !== "" ? "jupyter" : "page";
}

function saidByClasses(element: HTMLElement): ThemeName | null {
  const named = THEME_ATTRIBUTES.map((name) => element.getAttribute(name)).flatMap((value) => THEMES.filter((theme) => theme === value));
  return named[0] ?? THEMES.find((theme) => classesOf(theme).some((name) => element.classList.contains(name))) ?? null;
}

function saidByHost(body: HTMLElement): ThemeName | null {
  const { classList } = body;
  if (classList.contains("vscode-light") || classList.contains("vscode-high-contrast-light")) return "light";
  if (classList.contains("vscode-dark") || classList.contains("vscode-high-contrast")) return "dark";
  const jupyter = body.getAttribute("data-jp-theme-light");
  return jupyter === null ? null : jupyter === "true" ? "light" : "dark";
}

/** Light or dark, by the first of: what the user set, what the host says, what lies behind the widget, what the system prefers. */
export function themeOf(element: Element, wanted: "auto" | ThemeName): ThemeName {
  if (wanted !== "auto") return wanted;
  const { body, documentElement } = element.ownerDocument;
  const said = saidByHost(body) ?? saidByClasses(documentElement) ?? saidByClasses(body);
  if (said !== null) return said;
  const behind = groundBehind(element);
  if (behind !== null) return luminance(behind) < 0.2 ? "dark" : "light";
  const scheme = getComputedStyle(element.parentElement ?? documentElement).colorScheme;
  if (scheme === "dark" || scheme === "light") return scheme;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function groundBehind(element: Element): Rgb | null {
  let at: Node | null = element.parentNode;
  while (at !== null) {
    if (at instanceof Element) {
      const colour = readColour(getComputedStyle(at).backgroundColor);
      if (colour !== null && colour.alpha > 0.5) return colour.rgb;
    }
    at = at instanceof ShadowRoot ? at.host : at.parentNode;
  }
  return null;
}

function over({ rgb, alpha }: { rgb: Rgb; alpha: number }, ground: Rgb): Rgb {
  return [0, 1, 2].map((i) => ground[i] + (rgb[i] - ground[i]) * alpha) as unknown as Rgb;
}

let probe: CanvasRenderingContext2D | null = null;

/** Any CSS colour, as the browser itself reads it; `null` for what is none. */
function readColour(text: string): { rgb: Rgb; alpha: number } | null {
  if (text.trim() === "" || !CSS.supports("color", text.trim())) return null;
  if (probe === null) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    probe = canvas.getContext("2d", { willReadFrequently: true });
  }
  if (probe === null) return null;
  probe.clearRect(0, 0, 1, 1);
  probe.fillStyle = text.trim();
  probe.fillRect(0, 0, 1, 1);
  const [r = 0, g = 0, b = 0, alpha = 0] = probe.getImageData(0, 0, 1, 1).data;
  return { rgb: [r, g, b], alpha: alpha / 255 };
}

// Host variables by role; the first that is a colour counts.
const HOST_COLOURS: Readonly<Record<Exclude<Host, "page">, Readonly<Record<"ground" | "panel" | "line" | "ink" | "soft", readonly string[]>>>> = {
  jupyter: {
    ground: ["--jp-layout-color0"],
    panel: ["--jp-layout-color1"],
    line: ["--jp-border-color2"],
    ink: ["--jp-ui-font-color0", "--jp-ui-font-color1"],
    soft: ["--jp-ui-font-color2"],
  },
  vscode: {
    ground: ["--vscode-notebook-editorBackground", "--vscode-editor-background"],
    panel: [],
    line: ["--vscode-widget-border", "--vscode-panel-border"],
    ink: ["--vscode-editor-foreground", "--vscode-foreground"],
    soft: ["--vscode-descriptionForeground"],
  },
};

/** The palette for `element` as it stands: the host's colours where they can carry text and marks, ours where not. */
export function paletteOf(element: HTMLElement, theme: ThemeName): Palette {
  const own = PALETTES[theme];
  if (matchMedia("(forced-colors: active)").matches) return forced(element);
  const host = hostOf(element.ownerDocument.body);
  if (host === "page") return own;
  const style = getComputedStyle(element);
  const first = (names: readonly string[], ground: Rgb): Rgb | null => {
    for (const name of names) {
      const colour = readColour(style.getPropertyValue(name));
      if (colour !== null) return over(colour, ground);
    }
    return null;
  };
  const names = HOST_COLOURS[host];
  const ground = first(names.ground, own.ground) ?? own.ground;
  return adapted(own, { ground, ink: first(names.ink, ground), soft: first(names.soft, ground), line: first(names.line, ground), panel: first(names.panel, ground) });
}

type HostColours = { ground: Rgb } & Record<"ink" | "soft" | "line" | "panel", Rgb | null>;

/** `own` on the ground of a host, with as many of the host's colours as are legible there. */
export function adapted(own: Palette, { ground, ink, soft, line, panel }: HostColours): Palette {
  const agrees = own.theme === "dark" ? oklab(ground)[0] < 0.36 : oklab(ground)[0] > 0.9;
  if (!agrees) return own;
  const text = ink !== null && contrast(ink, ground) >= 7 ? ink : own.ink;
  const bar = panel !== null && contrast(panel, ground) < 1.3 ? panel : mix(ground, text, 0.03);
  const nearest = contrast(bar, text) < contrast(ground, text) ? bar : ground;
  return {
    ...own,
    ...marksOn(ground, nearest, text, own),
    panel: bar,
    soft: standOut(soft ?? own.soft, nearest, text, 4.5),
    line: line !== null && contrast(line, ground) < 3 ? line : mix(ground, text, 0.14),
  };
}

/** What is drawn on another ground, in another ink; `nearest` is the ground that it stands out from least. */
function marksOn(ground: Rgb, nearest: Rgb, ink: Rgb, { accent, several, ramp: [, ...stops] }: Palette): Pick<Palette, "ground" | "ink" | "accent" | "several" | "ramp"> {
  const apart = (colour: Rgb): Rgb => standOut(colour, nearest, ink, 3);
  return { ground, ink, accent: apart(accent), several: several.map(apart), ramp: [mix(ground, stops[0], 0.12), ...stops] };
}

/** The few colours a forced palette has (Windows high contrast). */
function forced(element: HTMLElement): Palette {
  const style = element.style;
  const before = style.color;
  const system = (name: string, fallback: Rgb): Rgb => {
    style.color = name;
    return readColour(getComputedStyle(element).color)?.rgb ?? fallback;
  };
  const ground = system("Canvas", PALETTES.dark.ground);
  const own = PALETTES[luminance(ground) < 0.2 ? "dark" : "light"];
  const ink = system("CanvasText", own.ink);
  const accent = system("Highlight", own.accent);
  style.color = before;
  return { ...own, ...marksOn(ground, ground, ink, { ...own, accent }), panel: ground, soft: ink, line: ink };
}

/** Calls `changed` whenever the host may have changed its theme. */
export function watchTheme(element: Element, changed: () => void, signal: AbortSignal): void {
  const { body, documentElement } = element.ownerDocument;
  const observer = new MutationObserver(changed);
  for (const target of [documentElement, body]) observer.observe(target, { attributes: true });
  atEnd(signal, () => observer.disconnect());
  for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
    listen(matchMedia(query), { change: changed }, signal);
  }
}

const ROOT = ".attnwidget";
const worn = new WeakMap<Element, Palette>();

/** Writes the palette where the style sheet and the views find it. */
export function dress(root: HTMLElement, palette: Palette): void {
  worn.set(root, palette);
  root.dataset["theme"] = palette.theme;
  root.style.colorScheme = palette.theme;
  for (const name of ROLES) root.style.setProperty(`--${name}`, css(palette[name]));
  root.dispatchEvent(new Event("attn-dress"));
}

/** The palette of the widget that `element` is in. */
export const paletteAt = (element: Element): Palette => worn.get(element.closest(ROOT) ?? element) ?? PALETTES.light;

/** Calls `changed` when the widget that `element` is in changes its colours. */
export function onDress(element: Element, changed: () => void, signal: AbortSignal): void {
  element.closest(ROOT)?.addEventListener("attn-dress", changed, { signal });
}
