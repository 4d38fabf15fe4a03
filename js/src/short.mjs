// Functions that the bundles call often, under names that the minifier can shorten: esbuild puts them in for the calls named here.
const { ceil, floor, max, min, round } = Math;
const { from, isArray } = Array;

export { ceil as "Math.ceil", floor as "Math.floor", from as "Array.from", isArray as "Array.isArray", max as "Math.max", min as "Math.min", round as "Math.round" };
