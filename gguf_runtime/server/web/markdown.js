// An answer's Markdown as nodes, kept up while it grows: only blocks whose source changed are built again.

import { blocks } from "./blocks.js";
import { copyButton, el } from "./dom.js";
import { highlight } from "./highlight.js";
import { inline } from "./inline.js";

export class Markdown {
  #root;
  #shown = []; // {source, type, node}, one for each child of the root

  constructor(root) {
    this.#root = root;
  }

  update(text) {
    const lines = text.replaceAll("\t", "    ").split(/\r\n|\r|\n/);
    const found = blocks(text).map((block) => ({ block, source: lines.slice(block.from, block.to).join("\n") }));
    found.forEach(({ block, source }, index) => {
      const old = this.#shown[index];
      if (old?.source === source && old.type === block.type) return;
      if (old?.type === "code" && block.type === "code") fillCode(old.node, block);
      else {
        const node = build(block);
        if (old) old.node.replaceWith(node);
        else this.#root.append(node);
        this.#shown[index] = { node };
      }
      Object.assign(this.#shown[index], { source, type: block.type });
    });
    for (const extra of this.#shown.splice(found.length)) extra.node.remove();
  }
}

function build(block) {
  return BUILDERS[block.type](block);
}

const BUILDERS = {
  paragraph: ({ text }) => el("p", {}, ...inline(text)),
  // below the page's own heading and the message's; h6 is the last there is
  heading: ({ level, text }) => el(`h${Math.min(level + 2, 6)}`, { "data-level": level }, ...inline(text)),
  rule: () => el("hr"),
  quote: (block) => el("blockquote", {}, block.blocks.map(build)),
  math: ({ text }) => el("pre", { class: "math", tabindex: 0 }, text),
  list: buildList,
  table: buildTable,
  code: buildCode,
};

function buildList({ number, items, loose }) {
  const list = items.map(({ blocks: inner, task }) => {
    const content = inner.flatMap((block) =>
      !loose && block.type === "paragraph" ? inline(block.text) : [build(block)],
    );
    if (task === null) return el("li", {}, ...content);
    const box = el("input", { type: "checkbox", checked: task, disabled: true, "aria-label": task ? "done" : "to do" });
    return el("li", { class: "task" }, box, ...content);
  });
  return number === undefined ? el("ul", {}, list) : el("ol", { start: number === 1 ? undefined : number }, list);
}

function buildTable({ head, align, rows }) {
  const cell = (tag) => (text, column) => el(tag, { class: align[column] || undefined }, ...inline(text ?? ""));
  const body = rows.map((row) => el("tr", {}, ...head.map((_, column) => cell("td")(row[column], column))));
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...head.map(cell("th")))), el("tbody", {}, body));
  return el("div", { class: "table", tabindex: 0, role: "region", "aria-label": "Table" }, table);
}

function buildCode(block) {
  const code = el("code");
  const figure = el(
    "figure",
    { class: "code" },
    el(
      "figcaption",
      {},
      el("span"),
      copyButton("Copy the code", () => code.textContent),
    ),
    el("pre", { tabindex: 0 }, code),
  );
  fillCode(figure, block);
  return figure;
}

function fillCode(figure, { language, text }) {
  figure.querySelector("figcaption span").textContent = language || "text";
  figure.querySelector("code").replaceChildren(highlight(text, language));
}
