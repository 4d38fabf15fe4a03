/** Colours: legible, and further from the ground the more weight there is. */

import { describe, expect, it } from "vitest";

import type { Palette, Rgb, Scale } from "../src/theme.ts";
import { adapted, along, contrast, level, mix, oklab, PALETTES, ramp, strongestTint } from "../src/theme.ts";

const rgb = (text: string): Rgb => [1, 3, 5].map((at) => Number.parseInt(text.slice(at, at + 2), 16)) as unknown as Rgb;
const unpixel = (pixel: number): Rgb => [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255];

const NONE = { ink: null, soft: null, line: null, panel: null };
const HOSTS: Record<string, Palette> = {
  light: PALETTES.light,
  dark: PALETTES.dark,
  "JupyterLab light": adapted(PALETTES.light, { ground: rgb("#ffffff"), ink: rgb("#000000"), soft: rgb("#757575"), line: rgb("#e0e0e0"), panel: rgb("#ffffff") }),
  "JupyterLab dark": adapted(PALETTES.dark, { ground: rgb("#111111"), ink: rgb("#ffffff"), soft: rgb("#929292"), line: rgb("#616161"), panel: rgb("#212121") }),
  "VS Code dark": adapted(PALETTES.dark, { ...NONE, ground: rgb("#1e1e1e"), ink: rgb("#d4d4d4") }),
  "a pale host with pale text": adapted(PALETTES.light, { ...NONE, ground: rgb("#fdf6e3"), ink: rgb("#93a1a1"), soft: rgb("#c0c8c8") }),
};

const linear = (channel: number): number => (channel <= 10.31 ? channel / 255 / 12.92 : ((channel / 255 + 0.055) / 1.055) ** 2.4);
const encoded = (c: number): number => 255 * (c <= 0.0031308 ? 12.92 * Math.max(0, c) : 1.055 * Math.min(1, c) ** (1 / 2.4) - 0.055);

/** How colours look to an eye that lacks one kind of cones (Machado, Oliveira and Fernandes 2009, severity 1). */
const through = (matrix: readonly (readonly number[])[]) => (colour: Rgb): Rgb => {
  const light = colour.map(linear);
  return matrix.map((row) => encoded(row.reduce((sum, share, i) => sum + share * light[i], 0))) as unknown as Rgb;
};
const SIGHTS: Record<string, (colour: Rgb) => Rgb> = {
  trichromat: (colour) => colour,
  protanope: through([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
  deuteranope: through([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]),
  tritanope: through([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]),
};

describe.each(Object.entries(HOSTS))("the palette of %s", (_, palette) => {
  it("has text of 4.5 : 1 on every surface", () => {
    for (const surface of [palette.ground, palette.panel]) {
      expect(contrast(palette.ink, surface)).toBeGreaterThanOrEqual(7);
      expect(contrast(palette.soft, surface)).toBeGreaterThanOrEqual(4.5);
    }
  });

  it("has marks of 3 : 1 on every surface", () => {
    for (const surface of [palette.ground, palette.panel]) expect(contrast(palette.accent, surface)).toBeGreaterThanOrEqual(3);
  });

  it("keeps text legible on the strongest tint of a key", () => {
    const share = strongestTint(palette);
    const tint = palette.ground.map((channel, i) => channel + (palette.accent[i] - channel) * share) as unknown as Rgb;
    expect(contrast(palette.ink, tint)).toBeGreaterThanOrEqual(4.5);
    expect(share).toBeGreaterThan(0.3);
  });

  it.each(["linear", "sqrt", "log"] as Scale[])("moves away from the ground with every step of the %s ramp", (scale) => {
    const lightness = Array.from(ramp(palette, scale), (pixel) => oklab(unpixel(pixel))[0]);
    const away = palette.theme === "light" ? -1 : 1;
    for (let i = 1; i < 256; i++) expect((lightness[i] - lightness[i - 1]) * away).toBeGreaterThan(-0.004);
    expect((lightness[255] - lightness[0]) * away).toBeGreaterThan(0.5);
    expect(Math.abs(lightness[0] - oklab(palette.ground)[0])).toBeLessThan(0.06);
  });

  it("has colours for several heads that stand out from the ground and from each other, whatever colours one sees", () => {
    for (const colour of palette.several) expect(contrast(colour, palette.ground)).toBeGreaterThanOrEqual(3);
    for (const [sight, seen] of Object.entries(SIGHTS)) {
      const labs = palette.several.map((colour) => oklab(seen(colour)));
      for (const [n, p] of labs.entries()) {
        for (const q of labs.slice(0, n)) expect(Math.hypot(p[0] - q[0], p[1] - q[1], p[2] - q[2]), `${sight}: ${n}`).toBeGreaterThan(0.06);
      }
    }
  });

  it.each(["uniform", "difference"] as const)("moves away from the middle on both sides of the %s ramp", (shade) => {
    const lightness = Array.from(ramp(palette, shade), (pixel) => oklab(unpixel(pixel))[0]);
    const away = palette.theme === "light" ? -1 : 1;
    for (let i = 129; i < 256; i++) expect((lightness[i] - lightness[i - 1]) * away).toBeGreaterThan(-0.006);
    for (let i = 126; i >= 0; i--) expect((lightness[i] - lightness[i + 1]) * away).toBeGreaterThan(-0.006);
  });
});

it("the accent is told apart from the ramp by hue: red over blue, where the ramp has blue over red", () => {
  for (const { accent, ramp: stops } of Object.values(PALETTES)) {
    expect(accent[0] - accent[2]).toBeGreaterThan(100);
    for (const stop of stops.slice(1, 4)) expect(stop[0] - stop[2]).toBeLessThan(0);
  }
});

it("a ground that does not fit the theme is not taken over", () => {
  expect(adapted(PALETTES.dark, { ...NONE, ground: rgb("#ffffff") })).toBe(PALETTES.dark);
  expect(adapted(PALETTES.light, { ...NONE, ground: rgb("#202020") })).toBe(PALETTES.light);
});

it("mixing keeps the ends", () => {
  const [one, other] = [rgb("#15204a"), rgb("#f2f0c4")];
  mix(one, other, 0).forEach((channel, i) => { expect(channel).toBeCloseTo(one[i], 3); });
  mix(one, other, 1).forEach((channel, i) => { expect(channel).toBeCloseTo(other[i], 3); });
  along([one, other], 2).forEach((channel, i) => { expect(channel).toBeCloseTo(other[i], 3); });
});

describe("scales", () => {
  it("put nothing at the start and everything at the end", () => {
    for (const scale of ["linear", "sqrt", "log"] as Scale[]) {
      expect(level(0, scale, 10)).toBe(0);
      expect(level(1, scale, 10)).toBe(1);
    }
  });

  it("log reaches down to 2⁻¹⁶", () => {
    expect(level(2 ** -16, "log", 1)).toBe(0);
    expect(level(2 ** -8, "log", 1)).toBe(0.5);
    expect(level(2 ** -20, "log", 1)).toBe(0);
  });

  it("uniform has an even spread in the middle, and 1/16 and 16 times that at the ends", () => {
    expect(level(1 / 40, "uniform", 40)).toBeCloseTo(0.5, 9);
    expect(level(16 / 40, "uniform", 40)).toBeCloseTo(1, 9);
    expect(level(1 / 640, "uniform", 40)).toBeCloseTo(0, 9);
    expect(level(0, "uniform", 40)).toBe(0);
  });
});
