declare module "lzma" {
  const lzma: { compress: (data: Uint8Array, mode: number) => number[] };
  export default lzma;
}
