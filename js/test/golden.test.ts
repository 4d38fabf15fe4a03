/** The files that Python wrote and both languages read: tests/golden/*.bin, each beside a *.json that says what it holds. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { describe, expect, it } from "vitest";

import { cellsOf, isWeight, weightMap } from "../src/math.ts";
import { read as shownOf, State } from "../src/state.ts";
import { openTiles } from "../src/tiles.ts";
import type { Block } from "../src/wire.ts";
import { bundleMeta, selectionOf, unpack } from "../src/wire.ts";

/** A weight, "nan", or null for a cell without weight (masked or padded). */
type Cell = number | "nan" | null;

interface Sidecar {
  expect?: { rows?: Record<string, Cell[]>; columns?: Record<string, Cell[]> };
  tolerance?: number;
  map_keys?: string[];
  /** Maps made of others: of several heads, of words, of both sides of a comparison. */
  combined?: { heads: [number, number][]; reduce: "mean" | "max" | "min"; group: boolean; side: "a" | "b" | "difference"; rows: Cell[][] }[];
  /** Words with which the bytes must be refused. */
  refuse?: string;
}

const GOLDEN = fileURLToPath(new URL("../../tests/golden", import.meta.url));
const names = existsSync(GOLDEN)
  ? readdirSync(GOLDEN)
      .filter((file) => file.endsWith(".bin"))
      .map((file) => file.slice(0, -".bin".length))
  : [];

const sidecarOf = (name: string): Sidecar => {
  const path = join(GOLDEN, `${name}.json`);
  return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Sidecar) : {};
};

function expectLine(line: Float32Array | null, wanted: Cell[], tolerance: number, what: string): void {
  expect(line?.length, what).toBe(wanted.length);
  wanted.forEach((cell, at) => {
    const got = line?.[at] ?? NaN;
    if (cell === null) expect(isWeight(got) || Number.isNaN(got), `${what}, cell ${at}: ${got}`).toBe(false);
    else if (cell === "nan") expect(got, `${what}, cell ${at}`).toBeNaN();
    else expect(Math.abs(got - cell), `${what}, cell ${at}: ${got} and ${cell}`).toBeLessThanOrEqual(tolerance);
  });
}

it("there are golden files to read", () => {
  expect(names, "tests/golden holds no *.bin: write them with Python first").not.toEqual([]);
});

describe.each(names)("golden file %s", (name) => {
  const read = (): Promise<Block> => unpack(readFileSync(join(GOLDEN, `${name}.bin`)));
  const { expect: wanted, tolerance = 1e-5, map_keys: keys, combined, refuse } = sidecarOf(name);

  it.runIf(refuse !== undefined)("is refused in words", async () => {
    await expect(read()).rejects.toThrow(refuse);
  });

  it.runIf(wanted !== undefined)("gives the weights that Python gives", async () => {
    const block = await read();
    const rows = Object.entries(wanted?.rows ?? {});
    const columns = Object.entries(wanted?.columns ?? {});
    expect(rows.length + columns.length).toBeGreaterThan(0);
    if (isLine(block)) {
      // One row or one column: its cells are the line.
      for (const [i, row] of rows) expectLine(cellsOf(block), row, tolerance, `row ${i}`);
      for (const [j, column] of columns) expectLine(cellsOf(block), column, tolerance, `column ${j}`);
      return;
    }
    const map = weightMap(block);
    for (const [i, row] of rows) expectLine(map.row(Number(i)) ?? map.tile(Number(i), Number(i) + 1, 0, map.nk), row, tolerance, `row ${i}`);
    for (const [j, column] of columns) expectLine(map.column(Number(j)) ?? map.tile(0, map.nq, Number(j), Number(j) + 1), column, tolerance, `column ${j}`);
  });

  it.runIf(combined !== undefined)("gives the maps made of maps that Python gives", async () => {
    const { signal } = new AbortController();
    const tiles = await openTiles(readFileSync(join(GOLDEN, `${name}.bin`)), null, signal);
    for (const { heads, reduce, group, side, rows } of combined ?? []) {
      const state = new State({ part: "attention", heads, reduce, side, group: group ? "word" : "token" });
      const shown = await shownOf(state, tiles, { part: "attention", layer: null, head: null, heads, reduce }, signal);
      expect(shown.axes.queries.labels.length).toBe(rows.length);
      const words = `${heads.join(" ")} ${reduce} ${side}${group ? " in words" : ""}`;
      for (const [i, row] of rows.entries()) expectLine(await shown.row(i, signal), row, tolerance, `row ${i} of ${words}`);
    }
  });

  it.runIf(refuse === undefined)("is a block that can be read", async () => {
    const block = await read();
    if (block.kind !== "bundle") {
      expect(["qk", "weights", "thumbs", "steps"]).toContain(block.kind);
      return;
    }
    const meta = bundleMeta(block);
    const stored = [...block.arrays.keys()];
    for (const part of meta.parts) expect(stored).toContain(`thumbs/${part.name}`);
    for (const key of keys ?? []) expect(stored.map((one) => one.replace(/^map\//, ""))).toContain(key.replace(/^map\//, ""));
    for (const [key, { data }] of block.arrays) {
      const nested = await unpack(data);
      if (!key.startsWith("map/")) continue;
      const selection = selectionOf(key.slice("map/".length));
      const part = meta.parts.find((one) => one.name === selection?.part);
      const map = weightMap(nested);
      // The maps of a comparison's first side have its own tokens, of which the axes in common hold more.
      const tokens = (axis: number, aligned: readonly number[] | undefined): number => aligned?.filter((at) => at >= 0).length ?? meta.axes[axis].labels.length;
      expect([map.nq, map.nk], key).toEqual([tokens(part?.queries ?? -1, part?.aligned?.queries[0]), tokens(part?.keys ?? -1, part?.aligned?.keys[0])]);
    }
  });
});

function isLine({ kind, meta }: Block): boolean {
  if (kind !== "weights") return false;
  const [rows, cols] = [meta["rows"], meta["cols"]] as [number[], number[]];
  return rows[1] - rows[0] !== meta["n_q"] || cols[1] - cols[0] !== meta["n_k"];
}
