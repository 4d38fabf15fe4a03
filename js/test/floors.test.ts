/** The house rule that imports go down only, types included. */

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { fileURLToPath } from "node:url";

import { expect, it } from "vitest";

const SRC = fileURLToPath(new URL("../src", import.meta.url));

const FLOORS: readonly RegExp[][] = [
  [/^inflate\.ts$/, /^unpack\.ts$/, /^until\.ts$/, /\.css$/],
  [/^wire\.ts$/],
  [/^math\.ts$/, /^theme\.ts$/, /^layout\.ts$/],
  [/^tiles\.ts$/, /^draw\.ts$/, /^a11y\.ts$/, /^combine\.ts$/, /^head\.ts$/, /^edges\.ts$/, /^paths\.ts$/, /^patches\.ts$/, /^thumbs\.ts$/, /^window\.ts$/, /^gestures\.ts$/, /^heard\.ts$/],
  [/^effects\.ts$/],
  [/^state\.ts$/, /^label\.ts$/, /^stages\.ts$/, /^carried\.ts$/, /^margins\.ts$/, /^plan\.ts$/],
  [/^figure\.ts$/, /^focus\.ts$/, /^grid\.ts$/, /^strips\.ts$/, /^switchboard\.ts$/, /^told\.ts$/, /^pictures\.ts$/, /^bars\.ts$/, /^axes\.ts$/, /^ink\.ts$/, /^reading\.ts$/],
  [/^said\.ts$/, /^mosaic\.ts$/, /^closeups\.ts$/, /^board\.ts$/, /^keys\.ts$/, /^strands\.ts$/],
  [/^sorting\.ts$/, /^tokenlist\.ts$/, /^around\.ts$/],
  [/^headers\.ts$/],
  [/^lens\.ts$/],
  [/^choosing\.ts$/],
  [/^tinted\.ts$/],
  [/^overlay\.ts$/],
  [/^pages\.ts$/],
  [/^views\/\w+\.ts$/, /^scrubber\.ts$/, /^saved\.ts$/, /^verify\.ts$/],
  [/^frame\.ts$/],
  [/^host\.ts$/],
  [/^widget\.ts$/, /^page\.ts$/, /^loader\.ts$/, /^inline\.ts$/],
];

const floorOf = (file: string): number => FLOORS.findIndex((floor) => floor.some((pattern) => pattern.test(file)));
const files = readdirSync(SRC, { recursive: true, encoding: "utf8" })
  .map((file) => file.replaceAll("\\", "/"))
  .filter((file) => file.endsWith(".ts") && !file.endsWith(".d.ts"));

/** What a file imports or re-exports, as paths within src, or as the name of a package. */
function importsOf(file: string): string[] {
  const source = readFileSync(join(SRC, file), "utf8");
  const specifiers = [...source.matchAll(/^(?:import|export)\s(?:[^;]*?\sfrom\s)?["']([^"']+)["']|\bimport\(\s*["']([^"']+)["']/gm)].map((match) => match[1] ?? match[2]);
  return specifiers.map((specifier) => (specifier.startsWith(".") ? normalize(relative(SRC, join(SRC, dirname(file), specifier))).replaceAll("\\", "/") : specifier));
}

it("every file has its floor", () => {
  expect(files.filter((file) => floorOf(file) < 0)).toEqual([]);
});

it.each(files)("%s imports from lower floors only", (file) => {
  for (const target of importsOf(file)) {
    if (target === "@anywidget/types") continue; // types only, gone when bundled
    expect(floorOf(target), `${file} imports ${target}, which is on no floor`).toBeGreaterThanOrEqual(0);
    expect(floorOf(target), `${file} imports ${target}`).toBeLessThan(floorOf(file));
  }
});

it("imports are found, with and without names, over several lines", () => {
  expect(importsOf("math.ts")).toEqual(["wire.ts", "wire.ts"]);
  expect(importsOf("host.ts")).toContain("frame.ts");
});

it("names that the build shortens are said in no string, where they would be other names", () => {
  const ours = /const OURS = "([^"]+)"/.exec(readFileSync(join(SRC, "../build.mjs"), "utf8"))?.[1].split(" ") ?? [];
  expect(ours.length).toBeGreaterThan(20);
  const code = files.map((file) => readFileSync(join(SRC, file), "utf8").replaceAll(/\/\*[^]*?\*\/|\/\/.*/g, "")).join("\n");
  expect(ours.filter((name) => new RegExp(`(["'\`])${name}\\1`).test(code))).toEqual([]);
});
