/** Entry for notebooks: an anywidget module. */

import type { Render } from "@anywidget/types";

import { show } from "./host.ts";

const render: Render = ({ model, el }) => {
  // Our own controller: hosts differ in whether they hand over a signal, and all of them call what `render` returns.
  const controller = new AbortController();
  show(model, el, controller.signal);
  return () => {
    controller.abort();
  };
};

export default { render };
