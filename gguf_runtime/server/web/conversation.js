// A conversation is a tree of messages: an edited message and an answer made again are siblings of what was there.
// `active` says which child is shown, by parent; "" is the parent of the first messages.

import { NUMBERS, TEXTS } from "./parameters.js";

export const ROOT = "";

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("");
}

export function newConversation({ model = "", settings = {} } = {}) {
  const now = Date.now();
  return {
    id: newId(),
    title: "",
    created: now,
    updated: now,
    model,
    settings: { ...settings },
    messages: {},
    active: {},
  };
}

/** Adds a message below `parent` (an id or ROOT) and shows it. */
export function addMessage(conversation, parent, fields) {
  const message = { id: newId(), parent, role: "user", text: "", created: Date.now(), ...fields };
  conversation.messages[message.id] = message;
  conversation.active[parent] = message.id;
  conversation.updated = message.created;
  return message;
}

/** The messages that are shown, first to last. */
export function shown(conversation) {
  const path = [];
  for (let id = conversation.active[ROOT]; id; id = conversation.active[id]) path.push(conversation.messages[id]);
  return path;
}

/** The messages that lead to one, itself included. */
export function pathTo(conversation, message) {
  const path = [];
  for (let at = message; at; at = conversation.messages[at.parent]) path.push(at);
  return path.reverse();
}

/** All versions at a message's place, in the order they were made. */
export function versions(conversation, message) {
  return Object.values(conversation.messages).filter((other) => other.parent === message.parent);
}

export function show(conversation, message) {
  for (const at of pathTo(conversation, message)) conversation.active[at.parent] = at.id;
}

/** What a conversation is called in the list. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.messages[conversation.active[ROOT]];
  const line = (first?.text || first?.files?.[0]?.name || "").trim().split("\n", 1)[0];
  return line.length > 70 ? `${line.slice(0, 68).trimEnd()}…` : line || "New conversation";
}

const ROLES = new Set(["user", "assistant", "tool"]);

/** A conversation out of a file or the browser's store, with nothing in it but what this page knows. Throws Error. */
export function parseConversation(value) {
  const source = record(value, "a conversation");
  const conversation = {
    id: string(source.id) || newId(),
    title: string(source.title).slice(0, 200),
    created: number(source.created) ?? Date.now(),
    updated: number(source.updated) ?? Date.now(),
    model: string(source.model),
    settings: parseSettings(source.settings ?? {}),
    messages: {},
    active: {},
  };
  for (const item of Object.values(record(source.messages, "the messages"))) {
    const message = parseMessage(record(item, "a message"));
    conversation.messages[message.id] = message;
  }
  for (const message of Object.values(conversation.messages)) {
    if (message.parent !== ROOT && !Object.hasOwn(conversation.messages, message.parent)) {
      throw new Error("a message answers one that is not there");
    }
  }
  refuseCycles(conversation.messages);
  for (const [parent, child] of Object.entries(record(source.active ?? {}, "the choice of branches"))) {
    if (Object.hasOwn(conversation.messages, child) && conversation.messages[child].parent === parent) {
      conversation.active[parent] = child;
    }
  }
  for (const message of Object.values(conversation.messages)) conversation.active[message.parent] ??= message.id;
  return conversation;
}

function parseMessage(source) {
  if (!ROLES.has(source.role)) throw new Error(`a message has the role ${JSON.stringify(source.role)}`);
  const id = string(source.id);
  if (!/^[\w-]{1,64}$/.test(id) || id in {}) throw new Error("a message has no proper id");
  const message = {
    id,
    parent: string(source.parent),
    role: source.role,
    text: string(source.text),
    created: number(source.created) ?? 0,
  };
  for (const key of ["thoughts", "model", "finish", "error", "callId"])
    if (source[key]) message[key] = string(source[key]);
  if (Array.isArray(source.files)) {
    message.files = source.files.map((file) => ({ name: string(file?.name), text: string(file?.text) }));
  }
  if (Array.isArray(source.calls)) {
    message.calls = source.calls.map((call) => ({
      id: string(call?.id),
      name: string(call?.name),
      arguments: string(call?.arguments),
    }));
  }
  if (source.tokens && typeof source.tokens === "object") {
    const known = ["prompt", "cached", "written", "promptRate", "rate", "thinkingMs"];
    const kept = known.filter((key) => number(source.tokens[key]) !== undefined);
    message.tokens = Object.fromEntries(kept.map((key) => [key, source.tokens[key]]));
  }
  return message;
}

/** The settings that there are, where they are of the right type. */
export function parseSettings(value) {
  const source = record(value, "the settings");
  const texts = TEXTS.filter((name) => string(source[name]));
  const numbers = NUMBERS.map(({ name }) => name).filter((name) => number(source[name]) !== undefined);
  return Object.fromEntries([...texts, ...numbers].map((name) => [name, source[name]]));
}

function refuseCycles(messages) {
  const rooted = new Set();
  for (const message of Object.values(messages)) {
    const way = new Set();
    for (let at = message; at && !rooted.has(at.id); at = messages[at.parent]) {
      if (way.has(at.id)) throw new Error("messages answer each other in a circle");
      way.add(at.id);
    }
    way.forEach((id) => rooted.add(id));
  }
}

function record(value, what) {
  if (typeof value !== "object" || value === null) throw new Error(`${what} is missing or no object`);
  return value;
}

const string = (value) => (typeof value === "string" ? value : "");
const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : undefined);
