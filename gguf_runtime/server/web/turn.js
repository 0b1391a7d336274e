// One message of the thread: what it says, and what can be done with it.

import { callCard, resultForm } from "./calls.js";
import { counts, figure } from "./counts.js";
import { copyButton, el, icon, iconButton } from "./dom.js";
import { Markdown } from "./markdown.js";

const NOTES = {
  stopped: "Stopped.",
  edited: "Edited by you.",
  length: "The answer reached its longest length, or the context is full.",
  interrupted: "Not finished.",
};

export class Turn {
  #chat;
  #branch;
  #message;
  #body = el("div", { class: "body" });
  #foot = el("footer", { class: "turn-foot" });
  #editing = false;
  #footState = "";

  /** `branch(message, label)` shows another version, at the wish of the button with that label. */
  constructor(chat, message, branch) {
    this.#chat = chat;
    this.#branch = branch;
    this.#message = message;
    const mine = message.role === "user";
    this.element = el(
      "li",
      { class: `turn ${mine ? "user" : "assistant"}` },
      el("article", {}, el("h2", { class: "unseen" }, mine ? "You" : "Answer"), this.#body, this.#foot),
    );
    if (mine) this.#body.append(...fileChips(message.files), el("p", { class: "text" }, message.text));
    else this.#prepareAnswer();
  }

  /**
   * `running`: the answer is coming in; `last`: nothing follows the message; `versions`: all at its place; `results`:
   * what its calls gave, by their ids.
   */
  update({ running, last, versions, results }) {
    if (this.#editing) return;
    this.element.classList.toggle("running", running);
    this.element.classList.toggle("last", last);
    if (this.#message.role === "assistant") this.#updateAnswer(running, last, results);
    const state = JSON.stringify([running, versions.map((version) => version.id), !running && this.#message.tokens]);
    if (state !== this.#footState) {
      this.#footState = state;
      this.#foot.replaceChildren(...(running ? [] : [...this.#branches(versions), ...this.#actions()].filter(Boolean)));
    }
  }

  /** Gives the focus to the button for the next version in the same direction, or back where there is none. */
  focusBranch(label) {
    const buttons = [...this.#foot.querySelectorAll(".branches button:enabled")];
    (buttons.find((button) => button.getAttribute("aria-label") === label) ?? buttons[0])?.focus();
  }

  startEditing() {
    if (this.#editing) return;
    this.#editing = true;
    const message = this.#message;
    const area = el("textarea", { value: message.text, "aria-label": "The message", rows: 1 });
    const end = () => {
      this.#editing = false;
      form.replaceWith(this.#body);
      this.#foot.hidden = false;
    };
    const submit = (event) => {
      event.preventDefault();
      end();
      if (area.value.trim() !== message.text.trim()) this.#chat.edit(message, area.value.trim());
    };
    const keys = (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        end();
        this.#foot.querySelector("[data-does=edit]")?.focus();
      } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
    };
    const form = el(
      "form",
      { class: "editor", onsubmit: submit, onkeydown: keys },
      area,
      el(
        "div",
        { class: "row" },
        el("button", { type: "button", class: "quiet", onclick: end }, "Cancel"),
        el("button", { type: "submit", class: "primary" }, message.role === "user" ? "Send" : "Keep"),
      ),
    );
    this.#body.replaceWith(form);
    this.#foot.hidden = true;
    area.style.height = `${Math.min(area.scrollHeight + 2, 480)}px`;
    area.focus();
  }

  #prepareAnswer() {
    const [thoughts, text] = [el("div", { class: "prose" }), el("div", { class: "prose" })];
    this.parts = {
      thoughts: new Markdown(thoughts),
      text: new Markdown(text),
      fold: el("details", { class: "thoughts", hidden: true }, el("summary"), thoughts),
      calls: el("div", { class: "calls", hidden: true }),
      wait: el("p", { class: "wait", hidden: true }),
      note: el("div", { class: "note", hidden: true }),
    };
    const { fold, calls, wait, note } = this.parts;
    this.#body.append(fold, text, calls, wait, note);
  }

  #updateAnswer(running, last, results) {
    const { thoughts, text, calls, tokens, progress } = this.#message;
    const { parts } = this;
    parts.fold.hidden = !thoughts;
    if (thoughts) {
      const thinking = running && !text && !calls;
      const seconds = Math.round((tokens?.thinkingMs ?? 0) / 1000);
      parts.fold.firstChild.textContent = thinking ? "Thinking…" : seconds ? `Thought for ${seconds} s` : "Thoughts";
      parts.thoughts.update(thoughts);
    }
    parts.text.update(text);
    this.#updateCalls(calls, running, last, results);
    parts.wait.hidden = !running || Boolean(text || thoughts || calls);
    const percent = progress > 0 && progress < 1 ? ` ${Math.floor(progress * 100)} %` : "";
    parts.wait.textContent = progress === undefined ? "Waiting" : `Reading the prompt${percent}`;
    this.#updateNote(running);
  }

  #updateCalls(calls, running, last, results) {
    this.parts.calls.hidden = !calls;
    const state = JSON.stringify([calls, running, last, [...results]]);
    if (!calls || state === this.callState) return;
    this.callState = state;
    const open = last && !running && calls.some((call) => !results.has(call.id));
    const send = (texts) => this.#chat.answerCalls(this.#message, texts);
    this.parts.calls.replaceChildren(
      ...calls.map((call) => callCard(call, results.get(call.id))),
      ...(open ? [resultForm(calls, send)] : []),
    );
  }

  #updateNote(running) {
    const { note } = this.parts;
    const { finish, error } = this.#message;
    note.hidden = running || (!error && finish && !NOTES[finish]);
    if (note.hidden) return;
    note.classList.toggle("error", Boolean(error));
    const again = () => this.#chat.regenerate(this.#message);
    note.replaceChildren(
      error ?? NOTES[finish ?? "interrupted"],
      ...(error ? [el("button", { type: "button", class: "quiet", onclick: again }, icon("again"), "Try again")] : []),
    );
  }

  #branches(versions) {
    if (versions.length < 2) return [];
    const at = versions.indexOf(this.#message);
    const step = (by, symbol, label) =>
      iconButton(symbol, label, () => this.#branch(versions[at + by], label), { disabled: !versions[at + by] });
    return [
      el(
        "div",
        { class: "branches", role: "group", "aria-label": "Versions" },
        step(-1, "left", "Earlier version"),
        el("span", {}, `${at + 1} / ${versions.length}`),
        step(1, "right", "Later version"),
      ),
    ];
  }

  #actions() {
    const message = this.#message;
    const answer = message.role === "assistant";
    const tools = el(
      "div",
      { class: "actions" },
      copyButton(answer ? "Copy the answer" : "Copy the message", () => message.text),
      iconButton("edit", answer ? "Edit the answer" : "Edit the message", () => this.startEditing(), {
        "data-does": "edit",
      }),
      answer && iconButton("again", "Answer again", () => this.#chat.regenerate(message)),
    );
    const choice = answer && message.model && this.#chat.models.length > 1;
    return [
      tools,
      answer && message.tokens && counts(message.tokens),
      choice && el("span", { class: "made-by", title: message.model }, shortName(message.model)),
    ];
  }
}

/** A model's name without the folders of its path and the ending of its file. */
export function shortName(id) {
  return id.replace(/^.*[/\\](?=[^/\\]+\.gguf$)/i, "").replace(/\.gguf$/i, "");
}

/** The names and sizes of files, as a list. */
export function fileChips(files = [], remove = undefined) {
  if (!files.length) return [];
  const chips = files.map((file, index) =>
    el(
      "li",
      {},
      icon("file"),
      el("span", {}, file.name),
      el("small", {}, size(file.text.length)),
      remove && iconButton("close", `Remove ${file.name}`, () => remove(index)),
    ),
  );
  return remove ? chips : [el("ul", { class: "files", "aria-label": "Attached files" }, ...chips)];
}

const size = (length) => (length < 1000 ? `${length} B` : `${figure(length / 1000)} kB`);
