// Files of text: attached to messages, and conversations exported and imported.

import { parseConversation, titleOf } from "./conversation.js";
import { download } from "./dom.js";

const LARGEST = 4_000_000; // bytes of an attached file: more than any context holds
const FORMAT = "ggrun-chat";

/** The files that are text, and for each of the others a sentence that says why it is not taken. */
export async function readFiles(files) {
  const texts = [];
  const refused = [];
  for (const file of files) {
    if (file.size > LARGEST) refused.push(`${file.name} is larger than 4 MB.`);
    else {
      const text = decode(await file.arrayBuffer());
      if (text === undefined) refused.push(`${file.name} is not a text file.`);
      else texts.push({ name: file.name, text });
    }
  }
  return { texts, refused };
}

/** UTF-8, or UTF-16 with its mark; undefined for anything else. */
function decode(buffer) {
  const [first, second] = new Uint8Array(buffer.slice(0, 2));
  const name =
    first === 0xff && second === 0xfe ? "utf-16le" : first === 0xfe && second === 0xff ? "utf-16be" : "utf-8";
  try {
    const text = new TextDecoder(name, { fatal: true }).decode(buffer);
    return text.includes("\0") ? undefined : text;
  } catch {
    return undefined;
  }
}

export function exportConversations(conversations) {
  const day = new Date().toISOString().slice(0, 10);
  const title =
    conversations.length === 1
      ? titleOf(conversations[0])
          .replace(/[^\p{L}\p{N}]+/gu, "-")
          .slice(0, 40)
      : "conversations";
  const content = { format: FORMAT, version: 1, conversations };
  download(`${title.replace(/^-|-$/g, "") || "conversation"}-${day}.json`, JSON.stringify(content, null, 1));
}

/** The conversations of an exported file. Throws Error, saying what is wrong with it. */
export function parseExport(text) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error("it is not JSON");
  }
  if (content?.format !== FORMAT) throw new Error("it is no export of this chat");
  if (content.version !== 1)
    throw new Error(`it is of version ${JSON.stringify(content.version)}, and this page knows 1`);
  if (!Array.isArray(content.conversations)) throw new Error("it holds no conversations");
  return content.conversations.map(parseConversation);
}
