// Colours for code: one scanner for all languages, which tells apart comments, strings, numbers, keywords, what is
// called, and what looks like a type. languages.js says how each is written.

import { languageOf } from "./languages.js";

const LONGEST = 60_000; // characters; beyond, plain text

/** A fragment of text and spans of class t-comment, t-string, t-number, t-keyword, t-call, t-type, t-add, t-remove. */
export function highlight(text, name) {
  const fragment = document.createDocumentFragment();
  const language = languageOf(name);
  if (!language || text.length > LONGEST) {
    fragment.append(text);
    return fragment;
  }
  let plain = "";
  for (const [kind, piece] of scan(text, language)) {
    if (!kind) {
      plain += piece;
      continue;
    }
    const span = document.createElement("span");
    span.className = `t-${kind}`;
    span.textContent = piece;
    fragment.append(plain, span);
    plain = "";
  }
  fragment.append(plain);
  return fragment;
}

/** Yields [kind or "", text]; joined, the texts are the whole. */
function* scan(text, { pattern, kinds, keywords }) {
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > at) yield ["", text.slice(at, match.index)];
    const kind = kinds.find((name) => match.groups[name] !== undefined);
    yield [kind === "word" ? wordKind(match[0], text[match.index + match[0].length], keywords) : kind, match[0]];
    at = match.index + match[0].length;
  }
  yield ["", text.slice(at)];
}

function wordKind(word, next, keywords) {
  if (keywords.has(word)) return "keyword";
  if (next === "(") return "call";
  return /^[A-Z][A-Za-z0-9]*[a-z]/.test(word) ? "type" : "";
}
