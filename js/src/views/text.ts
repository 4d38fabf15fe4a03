/** The text itself, tinted by what the token in focus attends to or receives. */

import { Pages } from "../pages.ts";
import type { ViewContext } from "../state.ts";

export function text(context: ViewContext): void {
  new Pages(context, false);
}
