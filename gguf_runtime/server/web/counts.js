// What an answer cost: tokens taken from the cache, read and written, as a small bar and in words.

import { el } from "./dom.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** A count or rate: one decimal below a hundred. */
export const figure = (number) => (number < 100 ? fine : whole).format(number);

/** The bar and words for a message's tokens; undefined where nothing is known yet. */
export function counts({ prompt, cached = 0, written, promptRate, rate }) {
  if (prompt === undefined && written === undefined) return undefined;
  const read = Math.max(0, (prompt ?? 0) - cached);
  const parts = [
    {
      kind: "cached",
      count: cached,
      words: `${whole.format(cached)} cached`,
      title: "tokens of the prompt that were taken from the cache",
    },
    {
      kind: "read",
      count: read,
      words: `${whole.format(read)} read`,
      rate: promptRate,
      title: "tokens of the prompt that were computed",
    },
    {
      kind: "written",
      count: written ?? 0,
      words: `${whole.format(written ?? 0)} written`,
      rate,
      title: "tokens of the answer",
    },
  ].filter(({ count }) => count > 0);
  const bar = el(
    "span",
    { class: "bar", "aria-hidden": "true" },
    ...parts.map(({ kind, count }) => {
      const piece = el("span", { class: kind });
      piece.style.flexGrow = count;
      return piece;
    }),
  );
  const words = parts.map(({ kind, words: text, rate: speed, title }) =>
    el(
      "span",
      { class: `count ${kind}`, title },
      text,
      speed ? el("span", { class: "rate" }, ` ${figure(speed)}/s`) : "",
    ),
  );
  return el("p", { class: "counts", "aria-label": "Tokens", role: "group" }, bar, ...words);
}
