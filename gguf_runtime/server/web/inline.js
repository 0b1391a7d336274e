// Markdown within a paragraph, as nodes: emphasis after CommonMark's delimiter stack, code, links, breaks.

import { el } from "./dom.js";

const SPECIAL = /[\\`*_~[\]!<\n$]|https?:\/\//g;
const TARGET = /\(\s*(?:<([^<>\n]*)>|([^\s()<]*(?:\([^\s()]*\)[^\s()]*)*))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/y;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
const BREAK_TAG = /<br\s*\/?>/iy;
const BARE_LINK = /https?:\/\/[^\s<>"`]+/y;
const MATH =
  /\\\([^\n]{1,2000}?\\\)|\\\[[^\n]{1,2000}?\\\]|\$\$[^$\n]{1,2000}\$\$|\$(?![\s\d])[^$\n]{0,200}[^\s$\\]\$(?!\d)/y;
const LONGEST = 20_000;
const PUNCTUATION = /[\p{P}\p{S}]/u;

/** The nodes of one paragraph's text. */
export function inline(text) {
  if (text.length > LONGEST) return [document.createTextNode(text)]; // matching runs takes time by the square
  const parts = []; // nodes, and runs {char, count, opens, closes} that may become emphasis
  const brackets = []; // where in parts a link may have begun
  let at = 0;
  const addText = (value) => value && parts.push(document.createTextNode(value));
  const match = (pattern) => {
    pattern.lastIndex = at;
    return pattern.exec(text);
  };
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const next = SPECIAL.exec(text)?.index ?? text.length;
    addText(text.slice(at, next));
    at = next;
    if (at === text.length) break;
    at += special(text[at], { text, at, match, parts, brackets, addText });
  }
  return emphasise(parts);
}

/** Handles the character at `at`; returns how much of the text it took. */
function special(char, { text, at, match, parts, brackets, addText }) {
  let found;
  if ((char === "\\" || char === "$") && (found = match(MATH))) {
    parts.push(el("span", { class: "math" }, found[0]));
    return found[0].length;
  }
  if (char === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
    addText(text[at + 1]);
    return 2;
  }
  if (char === "\\" && text[at + 1] === "\n") return 1; // the break follows
  if (char === "`") return codeSpan(text, at, parts, addText);
  if (char === "*" || char === "_" || char === "~") return delimiters(text, at, parts);
  if (char === "\n" || (char === "<" && (found = match(BREAK_TAG)))) {
    parts.push(el("br"));
    return found ? found[0].length : 1;
  }
  if (char === "[" || (char === "!" && text[at + 1] === "[")) {
    const length = char === "!" ? 2 : 1;
    brackets.push(parts.length);
    addText(text.slice(at, at + length));
    return length;
  }
  if (char === "]" && brackets.length) {
    const from = brackets.pop();
    TARGET.lastIndex = at + 1;
    found = TARGET.exec(text);
    if (found) {
      const label = emphasise(parts.splice(from).slice(1));
      parts.push(link(found[1] ?? found[2], label));
      return 1 + found[0].length;
    }
  }
  if (char === "<" && (found = match(AUTOLINK))) {
    parts.push(link(found[1], [found[1]]));
    return found[0].length;
  }
  if (char === "h" && (found = match(BARE_LINK))) {
    const url = found[0].replace(/[.,:;!?'*_~)\]}]+$/, (tail) =>
      found[0].includes("(") && tail[0] === ")" ? ")" : "",
    );
    parts.push(link(url, [url]));
    return url.length;
  }
  addText(char);
  return 1;
}

/** A link, where a page may open the address; pictures become links too, as nothing is fetched from outside. */
function link(address, label) {
  const allowed = /^(?:https?:\/\/|mailto:)/i.test(address) && URL.canParse(address);
  const content = label.length ? label : [address];
  if (!allowed) return el("span", {}, ...content);
  return el("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, ...content);
}

function codeSpan(text, at, parts, addText) {
  const [ticks] = /^`+/.exec(text.slice(at, at + 100));
  let end = at + ticks.length;
  for (;;) {
    end = text.indexOf(ticks, end);
    if (end < 0) {
      addText(ticks);
      return ticks.length;
    }
    let after = end + ticks.length;
    if (text[after] !== "`") {
      const code = text
        .slice(at + ticks.length, end)
        .replaceAll("\n", " ")
        .replace(/^ (.*[^ ].*) $/, "$1");
      parts.push(el("code", {}, code));
      return after - at;
    }
    while (text[after] === "`") after += 1;
    end = after;
  }
}

function delimiters(text, at, parts) {
  const char = text[at];
  let end = at;
  while (text[end] === char) end += 1;
  const [before, after] = [text[at - 1] ?? " ", text[end] ?? " "];
  const space = [/\s/.test(before), /\s/.test(after)];
  const mark = [PUNCTUATION.test(before), PUNCTUATION.test(after)];
  const left = !space[1] && (!mark[1] || space[0] || mark[0]);
  const right = !space[0] && (!mark[0] || space[1] || mark[1]);
  const word = char === "_";
  parts.push({
    char,
    count: end - at,
    opens: left && (!word || !right || mark[0]),
    closes: right && (!word || !left || mark[1]),
  });
  return end - at;
}

/** Turns matching runs into elements; runs without a match become text. */
function emphasise(parts) {
  const openers = []; // indices into out
  const out = [];
  for (const part of parts) {
    if (part instanceof Node) {
      out.push(part);
      continue;
    }
    if (part.closes) close(part, openers, out);
    if (part.count) {
      if (part.opens) openers.push(out.length);
      out.push(part);
    }
  }
  return out.map((part) => (part instanceof Node ? part : document.createTextNode(part.char.repeat(part.count))));
}

function close(closer, openers, out) {
  for (let index = openers.length - 1; index >= 0 && closer.count; index -= 1) {
    const opener = out[openers[index]];
    if (opener.char !== closer.char) continue;
    const odd =
      (opener.closes || closer.opens) &&
      (opener.count + closer.count) % 3 === 0 &&
      opener.count % 3 &&
      closer.count % 3;
    const used = Math.min(opener.count, closer.count, 2);
    if (odd || (closer.char === "~" && used < 2)) continue;
    const from = openers[index] + 1;
    const inner = out.splice(from).map((part) => (part instanceof Node ? part : part.char.repeat(part.count)));
    out.push(el(closer.char === "~" ? "del" : used === 2 ? "strong" : "em", {}, ...inner));
    opener.count -= used;
    closer.count -= used;
    openers.length = index + 1;
    if (!opener.count) {
      out.splice(openers[index], 1);
      openers.length = index;
    } else index += 1; // the same opener again, with what is left of it
  }
}
