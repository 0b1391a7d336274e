// The settings of a conversation: what the sheet shows, and what of it goes into a request.

/** Numbers that go to the server by these names; one that is not set is the model's own, or `empty`. */
export const NUMBERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 5, step: 0.05 },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01 },
  { name: "top_k", label: "Top k", min: 0, max: 1000, step: 1 },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01 },
  { name: "repeat_penalty", label: "Repeat penalty", min: 0, max: 3, step: 0.01 },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1 },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1 },
  { name: "seed", label: "Seed", min: 0, max: 4294967295, step: 1, empty: "random" },
  { name: "max_tokens", label: "Most tokens", min: 1, max: 1048576, step: 1, empty: "what fits" },
];

/** Settings that are texts. */
export const TEXTS = ["system", "stop", "tools", "reasoning_effort"];

export const EFFORTS = [
  ["", "model’s own"],
  ["none", "None"],
  ["low", "Low"],
  ["medium", "Medium"],
  ["high", "High"],
];

/** The request's fields for a conversation's settings. */
export function sampling(settings) {
  const fields = {};
  for (const { name } of NUMBERS) if (typeof settings[name] === "number") fields[name] = settings[name];
  if (settings.reasoning_effort) fields.reasoning_effort = settings.reasoning_effort;
  const stop = (settings.stop ?? "").split("\n").filter(Boolean);
  if (stop.length) fields.stop = stop;
  const tools = parseTools(settings.tools ?? "");
  if (tools.length) fields.tools = tools;
  return fields;
}

/** Tools as JSON: a list of functions, each with a name, bare or in OpenAI's wrapping. Throws Error. */
export function parseTools(text) {
  if (!text.trim()) return [];
  let list;
  try {
    list = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`, { cause: error });
  }
  if (!Array.isArray(list)) throw new Error('Tools are a JSON list: [{"name": …, "parameters": …}]');
  return list.map((tool) => {
    const wrapped = tool?.function ? tool : { type: "function", function: tool };
    if (typeof wrapped.function?.name !== "string") throw new Error("Every tool needs a name.");
    return wrapped;
  });
}
