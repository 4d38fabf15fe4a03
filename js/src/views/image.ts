/** Attention drawn over the picture it looks at. */

import { Pages } from "../pages.ts";
import type { ViewContext } from "../state.ts";

export function image(context: ViewContext): void {
  new Pages(context, true);
}
