// Tool calls of an answer: what the model asks for, and what it was told.

import { el, icon } from "./dom.js";
import { highlight } from "./highlight.js";

/** One call with its arguments, and its result where there is one. */
export function callCard(call, result) {
  const code = el("code");
  code.append(highlight(pretty(call.arguments), "json"));
  return el(
    "details",
    { class: "call", open: result === undefined },
    el(
      "summary",
      {},
      icon("tool"),
      el("span", { class: "call-name" }, call.name || "…"),
      el("span", { class: "call-state" }, result === undefined ? "waits for a result" : "answered"),
    ),
    el("pre", { tabindex: 0, "aria-label": "Arguments" }, code),
    result !== undefined && el("pre", { class: "result", tabindex: 0, "aria-label": "Result" }, result),
  );
}

/** A form for the results of calls, as this page runs no tools itself. */
export function resultForm(calls, send) {
  const areas = calls.map((call) =>
    el("textarea", { rows: 2, placeholder: `Result of ${call.name}`, "aria-label": `Result of ${call.name}` }),
  );
  const submit = (event) => {
    event.preventDefault();
    send(areas.map((area) => area.value));
  };
  return el(
    "form",
    { class: "results", onsubmit: submit },
    ...areas,
    el(
      "div",
      { class: "row" },
      el("button", { type: "submit", class: "primary" }, calls.length > 1 ? "Send the results" : "Send the result"),
    ),
  );
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // not whole yet, or not JSON
  }
}
