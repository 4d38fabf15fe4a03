/** Patches of a picture along an axis of an attention map. */

import { isWeight } from "./math.ts";
import type { Axis } from "./wire.ts";

export interface Patches {
  rows: number;
  cols: number;
  /** The token at each patch, in reading order. */
  tokens: readonly number[];
  /** The patch of each token; absent for others. */
  of: ReadonlyMap<number, number>;
}

/** The patches of an axis: from `first_patch` on, or the placeholders of an image where there are as many; a window is all patches. `null` where there are none. */
export function patchesOf({ grid, first_patch: first, image, labels }: Axis): Patches | null {
  if (grid === null) return null;
  const [rows, cols] = grid;
  const count = rows * cols;
  const from = first ?? (image.length === 0 && labels.length === count ? 0 : null);
  if (count === 0 || (from === null ? image.length !== count : from + count > labels.length)) return null;
  const tokens = from === null ? image : Array.from({ length: count }, (_, n) => from + n);
  return { rows, cols, tokens, of: new Map(tokens.map((token, patch) => [token, patch])) };
}

/** How a row or column is shared out between a picture and what else there is. */
export interface Shares {
  /** What all patches have together; of differences their sum. */
  picture: number;
  /** The patch with the largest weight, or difference. */
  most: number;
  /** Other tokens by weight, largest first, none without. */
  others: { token: number; weight: number }[];
}

export function sharesOf(cells: Float32Array, { tokens, of }: Patches): Shares {
  let [picture, most] = [0, 0];
  for (const token of tokens) {
    const cell = cells[token];
    if (!isWeight(cell)) continue;
    picture += cell;
    most = Math.max(most, Math.abs(cell));
  }
  const others: Shares["others"] = [];
  cells.forEach((weight, token) => {
    if (!of.has(token) && isWeight(weight) && weight !== 0) others.push({ token, weight });
  });
  return { picture, most, others: others.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)) };
}

/** Where a key leads from a patch; `null` for keys that lead nowhere. */
export function patchBeside(key: string, patch: number, { rows, cols }: Pick<Patches, "rows" | "cols">): number | null {
  const [row, col] = [Math.floor(patch / cols), patch % cols];
  const at = (r: number, c: number): number => Math.min(rows - 1, Math.max(0, r)) * cols + Math.min(cols - 1, Math.max(0, c));
  switch (key) {
    case "ArrowRight":
      return at(row, col + 1);
    case "ArrowLeft":
      return at(row, col - 1);
    case "ArrowDown":
      return at(row + 1, col);
    case "ArrowUp":
      return at(row - 1, col);
    case "Home":
      return at(row, 0);
    case "End":
      return at(row, cols - 1);
    default:
      return null;
  }
}
