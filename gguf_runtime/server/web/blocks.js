// Markdown's blocks: lines of text in, a tree of plain objects out. What ends a block is what models write, so
// underlined headings and code by indentation are left out: the first looks like a rule, the second like a list's text.

const DEEPEST = 24; // quotes and lists within each other; deeper ones are text
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( +)(?=\S)|\s*$)/;
const MATH = { $$: "$$", "\\[": "\\]" };

/** Blocks of `text`, each {type, from, to, …}; lines `from` to `to` are its source. */
export function blocks(text) {
  return parse(text.replaceAll("\t", "    ").split(/\r\n|\r|\n/), 0);
}

function parse(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block =
      (depth < DEEPEST && (quote(lines, at, depth) ?? list(lines, at, depth))) ||
      (fence(lines, at) ??
        heading(lines, at) ??
        rule(lines, at) ??
        math(lines, at) ??
        table(lines, at) ??
        paragraph(lines, at, depth));
    found.push({ ...block, from: at });
    at = block.to;
  }
  return found;
}

function fence(lines, at) {
  const open = FENCE.exec(lines[at]);
  if (!open) return undefined;
  const indent = /^ */.exec(lines[at])[0].length;
  const closing = new RegExp(`^ {0,3}${open[1][0]}{${open[1].length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, /^ */.exec(line)[0].length)));
  return {
    type: "code",
    language: open[2]
      .trim()
      .split(/[\s{,:]/, 1)[0]
      .toLowerCase(),
    text: code.join("\n"),
    to: Math.min(end + 1, lines.length),
  };
}

function heading(lines, at) {
  const found = HEADING.exec(lines[at]);
  return found ? { type: "heading", level: found[1].length, text: found[2], to: at + 1 } : undefined;
}

function rule(lines, at) {
  return RULE.test(lines[at]) ? { type: "rule", to: at + 1 } : undefined;
}

function math(lines, at) {
  const closing = MATH[lines[at].trim()];
  if (!closing) return undefined;
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== closing) end += 1;
  return { type: "math", text: lines.slice(at + 1, end).join("\n"), to: Math.min(end + 1, lines.length) };
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  if (end === at) return undefined;
  return {
    type: "quote",
    blocks: parse(
      lines.slice(at, end).map((line) => line.replace(QUOTE, "")),
      depth + 1,
    ),
    to: end,
  };
}

/** A list's items; what is indented as far as an item's text belongs to it, as do blank lines before such. */
function list(lines, at, depth) {
  if (RULE.test(lines[at])) return undefined;
  const first = ITEM.exec(lines[at]);
  if (!first) return undefined;
  const kind = first[2].at(-1);
  const items = [];
  let [end, loose] = [at, false];
  while (end < lines.length) {
    const marker = ITEM.exec(lines[end]);
    if (!marker || marker[2].at(-1) !== kind || RULE.test(lines[end])) break;
    const width = marker[1].length + marker[2].length + Math.min(marker[3]?.length ?? 1, 4);
    const start = end;
    end = endOfItem(lines, start, width);
    const own = lines
      .slice(start, end)
      .map((line, index) => (index ? line.slice(Math.min(width, indentOf(line))) : line.slice(width)));
    const inner = own.findIndex((line, index) => index && !line.trim());
    const task = /^\[([ xX])\]\s+/.exec(own[0]);
    if (task) own[0] = own[0].slice(task[0].length);
    items.push({ blocks: parse(own, depth + 1), task: task && task[1] !== " ", from: start });
    const gap = end;
    while (end < lines.length && !lines[end].trim()) end += 1;
    loose ||= inner > 0 || (end > gap && ITEM.test(lines[end] ?? "") && ITEM.exec(lines[end])[2].at(-1) === kind);
    if (end > gap && !ITEM.test(lines[end] ?? "")) {
      end = gap;
      break;
    }
  }
  const number = /\d/.test(first[2]) ? Number.parseInt(first[2], 10) : undefined;
  return { type: "list", number, items, loose, to: end };
}

function endOfItem(lines, start, width) {
  let end = start + 1;
  let blank = false;
  for (let at = end; at < lines.length; at += 1) {
    const line = lines[at];
    if (!line.trim()) {
      blank = true;
      continue;
    }
    const inside = indentOf(line) >= Math.min(width, 2 + indentOf(lines[start]));
    if (!inside && (blank || ITEM.test(line) || interrupts(line))) break;
    blank = false;
    end = at + 1;
  }
  return end;
}

const indentOf = (line) => /^ */.exec(line)[0].length;

function table(lines, at) {
  const head = cells(lines[at]);
  const under = lines[at + 1] ?? "";
  if (head.length < 1 || !lines[at].includes("|") || !/^[\s|:-]*$/.test(under) || !under.includes("-"))
    return undefined;
  const marks = cells(under);
  if (marks.length !== head.length || !marks.every((mark) => /^:?-+:?$/.test(mark))) return undefined;
  const align = marks.map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : ""));
  let end = at + 2;
  const rows = [];
  while (end < lines.length && lines[end].trim() && !interrupts(lines[end]) && !startsList(lines[end])) {
    rows.push(cells(lines[end]).slice(0, head.length));
    end += 1;
  }
  return { type: "table", head, align, rows, to: end };
}

/** The cells of a row; a bar that is escaped, or in code, does not part them. */
function cells(line) {
  const found = [""];
  let ticks = false;
  for (let at = 0; at < line.length; at += 1) {
    if (line[at] === "\\" && line[at + 1] === "|") {
      found[found.length - 1] += "|";
      at += 1;
      continue;
    }
    if (line[at] === "`") ticks = !ticks && line.includes("`", at + 1);
    if (line[at] === "|" && !ticks) found.push("");
    else found[found.length - 1] += line[at];
  }
  const trimmed = found.map((cell) => cell.trim());
  if (line.trim().startsWith("|")) trimmed.shift();
  if (trimmed.length > 1 && line.trim().endsWith("|")) trimmed.pop();
  return trimmed;
}

function paragraph(lines, at) {
  let end = at + 1;
  while (
    end < lines.length &&
    lines[end].trim() &&
    !interrupts(lines[end]) &&
    !startsList(lines[end]) &&
    !table(lines, end)
  )
    end += 1;
  return {
    type: "paragraph",
    text: lines
      .slice(at, end)
      .map((line) => line.trim())
      .join("\n"),
    to: end,
  };
}

const interrupts = (line) =>
  FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || Object.hasOwn(MATH, line.trim());

/** Whether a list may begin right under a paragraph: a number other than 1 may be a date at the start of a line. */
function startsList(line) {
  const item = ITEM.exec(line);
  return item !== null && item[3] !== undefined && (!/\d/.test(item[2]) || Number.parseInt(item[2], 10) === 1);
}
