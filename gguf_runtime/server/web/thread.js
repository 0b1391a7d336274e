// The shown conversation: its messages in order, followed at the bottom while an answer grows.

import { shown, titleOf, versions } from "./conversation.js";
import { el } from "./dom.js";
import { figure } from "./counts.js";
import { Turn } from "./turn.js";

export class Thread {
  #chat;
  #turns = new Map(); // message id → Turn
  #conversation = null;
  #follow = true;
  #top = 0; // where it was scrolled to
  #system = { text: "", element: null };
  #frame = 0;
  #list = document.getElementById("thread");
  #scroller = document.getElementById("scroller");
  #latest = document.getElementById("latest");
  #welcome = document.getElementById("welcome");

  constructor(chat) {
    this.#chat = chat;
    chat.addEventListener("thread", () => this.#draw());
    chat.addEventListener("models", () => this.#drawWelcome());
    chat.addEventListener("message", () => {
      this.#frame ||= requestAnimationFrame(() => this.#drawLast());
    });
    this.#scroller.addEventListener("scroll", () => this.#look(), { passive: true });
    this.#latest.addEventListener("click", () => this.#toEnd());
    new ResizeObserver(() => this.#settle()).observe(this.#scroller); // the box below grows and shrinks
    this.#draw();
  }

  /** Begins to edit the last question. */
  editLast() {
    const last = shown(this.#chat.current).findLast((message) => message.role === "user");
    if (last && !this.#chat.running.has(this.#chat.current.id)) this.#turns.get(last.id)?.startEditing();
  }

  #draw() {
    const { current } = this.#chat;
    if (current !== this.#conversation) {
      this.#conversation = current;
      this.#turns.clear();
      this.#follow = true;
    }
    const path = shown(current);
    const kept = new Map();
    for (const message of path) {
      if (message.role !== "tool") kept.set(message.id, this.#turns.get(message.id) ?? this.#turn(message));
    }
    if (path.some((message) => !this.#turns.has(message.id)) && this.#chat.running.has(current.id)) this.#follow = true;
    this.#turns = kept;
    this.#place([...this.#systemTurn(), ...[...kept.values()].map((turn) => turn.element)]);
    path.forEach((message, index) => this.#update(message, path, index));
    this.#drawWelcome();
    document.getElementById("title").textContent = titleOf(current);
    document.title = path.length ? `${titleOf(current)} – ggrun` : "ggrun";
    document.getElementById("more").hidden = !this.#chat.conversations.has(current.id);
    this.#settle();
  }

  #drawLast() {
    this.#frame = 0;
    const path = shown(this.#chat.current);
    if (path.length) this.#update(path.at(-1), path, path.length - 1);
    this.#settle();
  }

  #update(message, path, index) {
    const last = index === path.length - 1;
    const results = new Map();
    for (let at = index + 1; path[at]?.role === "tool"; at += 1) results.set(path[at].callId, path[at].text);
    this.#turns.get(message.id)?.update({
      last,
      results,
      running: this.#chat.isComing(message),
      versions: versions(this.#chat.current, message),
    });
  }

  #turn(message) {
    return new Turn(this.#chat, message, (version, label) => {
      this.#chat.show(version);
      this.#turns.get(version.id)?.focusBranch(label);
    });
  }

  /** Makes the list's children these, leaving alone what is in its place (and with it focus and selection). */
  #place(elements) {
    const wanted = new Set(elements);
    for (const child of [...this.#list.children]) if (!wanted.has(child)) child.remove();
    elements.forEach((element, index) => {
      if (this.#list.children[index] !== element) this.#list.insertBefore(element, this.#list.children[index] ?? null);
    });
  }

  #systemTurn() {
    const text = this.#chat.current.settings.system?.trim() ?? "";
    if (text !== this.#system.text) {
      const fold = el("details", {}, el("summary", {}, "System prompt"), el("p", {}, text));
      this.#system = { text, element: text ? el("li", { class: "system" }, fold) : null };
    }
    return text ? [this.#system.element] : [];
  }

  #drawWelcome() {
    const empty = shown(this.#chat.current).length === 0;
    this.#welcome.hidden = !empty;
    if (!empty) return;
    const { model } = this.#chat;
    const facts = this.#chat.models.find(({ id }) => id === model)?.meta ?? {};
    const shownFacts = [
      [facts.n_params, (count) => scaled(count), "parameters"],
      [facts.n_ctx ?? facts.n_ctx_train, (count) => figure(count), "tokens of context"],
      [facts.size, (bytes) => `${scaled(bytes)}B`, "weights"],
    ].filter(([value]) => Number.isFinite(value) && value > 0);
    this.#welcome.replaceChildren(
      el("p", { class: "welcome-model" }, model || "No model"),
      el(
        "dl",
        {},
        ...shownFacts.map(([value, form, name]) => el("div", {}, el("dt", {}, name), el("dd", {}, form(value)))),
      ),
      el("p", { class: "welcome-note" }, "Conversations are kept in this browser and nowhere else."),
    );
  }

  /** Scrolling up stops the following; being at the end again resumes it. */
  #look() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const left = scrollHeight - scrollTop - clientHeight;
    this.#follow = left < 4 || (this.#follow && scrollTop >= this.#top);
    this.#top = scrollTop;
    this.#latest.hidden = this.#follow || left < clientHeight / 3;
  }

  #toEnd() {
    this.#follow = true;
    this.#settle();
    document.getElementById("message").focus();
  }

  #settle() {
    if (this.#follow) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#look();
  }
}

function scaled(number) {
  const [power, unit] = [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ].find(([size]) => number >= size) ?? [1, ""];
  return `${figure(number / power)} ${unit}`;
}
