// From a conversation to a request, and from the stream that comes back to a message.

import { pathTo } from "./conversation.js";
import { sampling } from "./parameters.js";
import { streamChat } from "./stream.js";

/** The body of the request for the answer `message`, whose place in the tree says what came before. */
export function requestFor(conversation, message) {
  const before = pathTo(conversation, message).slice(0, -1);
  const system = conversation.settings.system?.trim();
  const messages = before.map(toWire);
  if (system) messages.unshift({ role: "system", content: system });
  return {
    ...(message.model && { model: message.model }),
    messages,
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
    ...sampling(conversation.settings),
  };
}

function toWire(message) {
  if (message.role === "tool") return { role: "tool", tool_call_id: message.callId, content: message.text };
  if (message.role === "user") return { role: "user", content: withFiles(message) };
  return {
    role: "assistant",
    content: message.text || null,
    ...(message.thoughts && { reasoning_content: message.thoughts }),
    ...(message.calls?.length && { tool_calls: message.calls.map(callToWire) }),
  };
}

const callToWire = ({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } });

/** Files go before the question, each in a fence that its own text cannot close. */
function withFiles({ text, files = [] }) {
  const parts = files.map((file) => {
    const longest = Math.max(2, ...Array.from(file.text.matchAll(/`+/g), ([run]) => run.length));
    const fence = "`".repeat(longest + 1);
    return `${file.name}:\n${fence}\n${file.text.replace(/\n$/, "")}\n${fence}`;
  });
  return [...parts, text].filter(Boolean).join("\n\n");
}

/** Fills `message` from the server's stream; `changed()` is called after each chunk. Throws as streamChat does. */
export async function fill(conversation, message, signal, changed) {
  const started = performance.now();
  for await (const chunk of streamChat(requestFor(conversation, message), signal)) {
    const choice = chunk.choices?.[0];
    if (choice) {
      takeDelta(message, choice.delta ?? {}, started);
      if (choice.finish_reason) message.finish = choice.finish_reason;
    }
    if (typeof chunk.model === "string" && chunk.model) message.model = chunk.model;
    takeCounts(message, chunk);
    changed();
  }
}

function takeDelta(message, delta, started) {
  const thought = delta.reasoning_content ?? delta.reasoning;
  if (thought) {
    message.thoughts = (message.thoughts ?? "") + thought;
    message.tokens = { ...message.tokens, thinkingMs: performance.now() - started };
  }
  if (delta.content) message.text += delta.content;
  if (thought || delta.content || delta.tool_calls) delete message.progress;
  for (const piece of delta.tool_calls ?? []) {
    message.calls ??= [];
    const call = (message.calls[piece.index ?? 0] ??= { id: "", name: "", arguments: "" });
    call.id += piece.id ?? "";
    call.name += piece.function?.name ?? "";
    call.arguments += piece.function?.arguments ?? "";
  }
}

function takeCounts(message, { usage, timings, prompt_progress: progress }) {
  if (progress?.total) message.progress = progress.processed / progress.total;
  if (!usage && !timings) return;
  const counts = {
    prompt: usage?.prompt_tokens ?? (timings && timings.cache_n + timings.prompt_n),
    cached: usage?.prompt_tokens_details?.cached_tokens ?? timings?.cache_n,
    written: usage?.completion_tokens ?? timings?.predicted_n,
    promptRate: timings?.prompt_per_second,
    rate: timings?.predicted_per_second,
  };
  const known = Object.entries(counts).filter(([, count]) => Number.isFinite(count));
  message.tokens = { ...message.tokens, ...Object.fromEntries(known) };
}
