/** What is said beside the steps: prose with the numbers of one query and one key. */

import type { Piece } from "./a11y.ts";
import { counted, element, spelled, thousands } from "./a11y.ts";
import type { Head, Switches } from "./head.ts";
import { ABSENT, ALLOWED, moved, norm, products, shareOf } from "./head.ts";
import type { Column, Compared, Stages } from "./stages.ts";
import { changesOf, figure, percent, scaleText, weightFigure } from "./stages.ts";

export interface Subject extends Compared {
  head: Head;
  switches: Switches;
  stages: Stages;
  /** Of the head. */
  query: number;
  key: number;
  names: { query: readonly Piece[]; key: readonly Piece[] };
  /** How many query heads share k and v. */
  sharing: number;
}

type Word = string | number | Node | readonly Piece[] | null;

export const bold = (text: string): HTMLElement => element("b", {}, text);
export const badge = (step: number): HTMLElement => element("span", { class: "attn-badge" }, String(step));
const power = (exponent: string): HTMLElement => element("sup", {}, exponent);

/** Numbers are set in bold, with two decimals. */
const words = (list: readonly Word[]): (Node | string)[] =>
  list.flatMap((word) => (word === null ? [] : typeof word === "number" ? [bold(figure(word))] : typeof word === "string" || word instanceof Node ? [word] : spelled(word)));

const paragraph = (step: number | undefined, title: string, ...list: Word[]): HTMLElement =>
  element("p", {}, ...(step === undefined ? [] : [badge(step)]), bold(title), " ", ...words(list));

/** What is changed, how much that moves, and that it is this head alone. */
export function changeTold({ head, own, now }: Compared & { head: Head }, switches: Switches): (Node | string)[] {
  return words([
    bold(`Changed: ${changesOf(switches, head).join(", ")}.`), " ", bold(weightFigure(moved(own.row, now.row))),
    " of the weight has moved. In colour: what comes of it; outlined: the model’s own. Nothing after this head is computed again.",
  ]);
}

/** Steps 1 and 2. */
export function vectorsTold({ head, switches: { positions }, now, query, key, names, sharing }: Subject): HTMLElement[] {
  const { d, turned } = head;
  if (d === null) return [paragraph(undefined, "No q and k.", head.why.vectors ?? "This attention was given as weights.")];
  const up = products(head.query(query, positions), head.key(key, positions)).reduce((sum, x) => sum + Math.max(0, x), 0);
  const dot = now.row.dot[key];
  const rotary = turned === 0 ? null : positions
    ? ` Rotary embedding turns both${turned < d ? ` in ${turned} dimensions` : ""} by their position: q·k depends on how far apart the tokens are.`
    : " Positions are off: q and k are not turned.";
  return [
    paragraph(1, "Query and key.", names.query, ` asks with a vector q of ${d} numbers, and each key answers with its k: here `, names.key, ".", rotary,
      sharing > 1 ? ` ${sharing} query heads share k and v of key head ${head.kvHead}.` : null),
    paragraph(2, "Multiply and add.", "Positive products q × k add ", up, ", negative ones take ", up - dot, ": q·k = ", dot, ", the first column below."),
  ];
}

/** The steps that have a column, from the scale to the softmax. */
export function scoresTold({ head, own, now, unscaled, key, names, switches, stages }: Subject): HTMLElement[] {
  const { row } = now;
  const made: HTMLElement[] = [];
  const tell = (id: Column["id"], title: string, ...list: Word[]): void => {
    made.push(paragraph(stages.columns.find((column) => column.id === id)?.step, title, ...list));
  };
  const off = (is: boolean): string => (is ? "" : "Switched off. ");
  if (head.d === null) tell("score", "Scores.", "The logarithms of the weights, since softmax turns them back: ", row.score[key], " for ", names.key, ".");
  else {
    tell("scaled", "Scale.", off(switches.scale), `The more products a sum has, ${head.d} here, the wider it spreads. ${scaleText(head)} brings its standard deviation σ over the keys from `,
      own.row.spread.dot, " to ", own.row.spread.scaled, ".", ...(unscaled === null ? [] : [" Without it the softmax would spread over ", unscaled.effective, " keys, not ", own.row.effective, "."]));
  }
  if (head.cap !== 0) tell("capped", "Cap.", `c·tanh(s / c) keeps scores within ±${head.cap}: `, row.scaled[key], " becomes ", row.capped[key], ".");
  if (head.biased !== null) {
    tell("score", "Bias.", off(switches.positions || !head.biasPositional), row.bias[key], " is added for ", names.key, head.biased === "offset" ? ", which depends on the distance of the tokens." : ".");
  }
  const { allowed, sees } = own.row;
  const absent = sees.filter((one) => one === ABSENT).length;
  const padding = absent === 0 ? null : ` Padding: ${counted(absent, "key")}.`;
  if (allowed === sees.length) made.push(paragraph(undefined, "Mask.", names.query, ` may see all ${counted(allowed, "key")}.`));
  else {
    tell("score", "Mask.", off(switches.mask), names.query, " may see ", bold(thousands(row.allowed)),
      ...(switches.mask ? [` of ${counted(sees.length, "key")}. The score of the others is −∞: they weigh nothing.`] : [` keys; the model lets it see ${thousands(allowed)}.`]), padding);
  }
  const [weight, score] = [row.weight[key], row.score[key]];
  const total = Math.exp(score) / weight; // Σ exp(score), with the sink
  const [p, sized] = [bold(weightFigure(weight)), total >= 0.01 && total < 1e9];
  tell("weight", switches.uniform ? "Uniform." : "Softmax.",
    ...(switches.uniform ? [`In place of the softmax, each of ${counted(row.allowed, "key")} weighs `, p] : [
      `Scores${switches.temperature === 1 ? "" : ", divided by the temperature,"} become weights that add up to 1: `,
      ...(row.sees[key] === ALLOWED && sized ? ["e", power(figure(score)), ` / ${total < 1000 ? figure(total) : thousands(Math.round(total))} = `] : []), p, " for ", names.key,
    ]),
    own === now ? null : ` (in the model ${weightFigure(own.row.weight[key])})`, ".",
    ...(row.leak > 0.0005 ? [" The sink, a score without a key, takes ", bold(weightFigure(row.leak)), "."] : []),
    " Entropy H = ", row.entropy, " nats: as if spread evenly over e", power("H"), " = ", row.effective, " keys.");
  return made;
}

export function sumTold({ head, now, key, names, stages }: Subject): HTMLElement {
  if (now.z === null) return paragraph(stages.sum, "Weigh the values.", head.why.values ?? "The values v of this head were not kept, so the steps end with the weights.");
  return paragraph(stages.sum, "Weigh and add the values.", `Each key brings a vector v of ${head.dv} numbers; z is their sum, each times its weight. `,
    names.key, " brings ", bold(percent(shareOf(head, now, key))), ` of z (measured along z) with ${weightFigure(now.row.weight[key])} of the weight.`);
}

export function writeTold({ head, own, now, names, stages }: Subject): HTMLElement {
  const { written } = now;
  if (written === null) return paragraph(stages.write, "Write.", head.why.output ?? "The output projection was not kept, so what the head writes cannot be shown.");
  const was = own === now ? null : own.written;
  return paragraph(
    stages.write, "Write.", `The head’s slice of the output projection${head.output === null ? "" : ` (${head.output})`} turns z into ${thousands(written.length)} numbers, added to the residual stream of `,
    names.query, ": a vector of norm ", norm(written), ".",
    ...(was === null ? [] : [" That is ", bold(percent(norm(written.map((x, r) => x - was[r])) / norm(was))), " away from what it writes in the model."]),
  );
}
