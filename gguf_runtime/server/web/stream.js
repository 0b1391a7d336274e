// The server's API: the models there are, and an answer as events.

import { preferences } from "./store.js";

/** What the server said instead of an answer; `status` is 0 where it said nothing. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export async function listModels() {
  const response = await request("v1/models");
  const { data } = await response.json();
  return Array.isArray(data) ? data.filter((model) => typeof model?.id === "string") : [];
}

/** Yields the chunks of a chat completion. Throws ServerError, and AbortError when `signal` is set off. */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message ?? "The server ended the answer with an error.", 500);
    yield chunk;
  }
  throw new ServerError("The connection ended before the answer did.");
}

/** The data of server-sent events; comments and other fields are passed over. */
export async function* events(body) {
  let rest = "";
  let data = [];
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // tells the server that nobody listens any more
  }
}

async function request(path, options = {}) {
  const key = preferences.get("key");
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. Is ggrun serve still running?");
  }
  if (response.ok) return response;
  throw new ServerError(await complaint(response), response.status);
}

async function complaint(response) {
  if (response.status === 401) return "The server asks for an API key, and the one given is missing or wrong.";
  let message;
  try {
    message = (await response.json()).error.message;
  } catch {
    message = `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  }
  const wait = response.status === 429 && response.headers.get("Retry-After");
  return wait ? `${message} Try again in ${wait} s.` : message;
}
