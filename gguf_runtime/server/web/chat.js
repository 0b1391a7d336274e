// The state of the page and what can be done to it. Views call these actions and listen for what changed:
// "list" (conversations), "thread" (the shown one), "message" (one that is being written), "models", "notice"
// (text in detail), "key" (the server asks for one), "done" (an answer ended; the message in detail).

import * as tree from "./conversation.js";
import { fill } from "./answer.js";
import { preferences, Store } from "./store.js";
import { listModels } from "./stream.js";

const SAVE_EVERY = 1500; // ms, while an answer comes in

export class Chat extends EventTarget {
  conversations = new Map();
  models = [];
  running = new Map(); // conversation id → {controller, answer}
  current = tree.newConversation({ settings: this.defaults() });
  #store = new Store((id) => this.#reload(id));

  async load() {
    if (!(await this.#store.open()))
      this.#tell("notice", "This browser keeps nothing for this page: conversations end with it.");
    for (const stored of await this.#store.all()) this.#take(stored);
    this.#tell("list");
  }

  async loadModels() {
    try {
      this.models = await listModels();
      this.#tell("models");
    } catch (error) {
      this.#tell(error.status === 401 ? "key" : "notice", error.message);
    }
  }

  /** The model that the shown conversation's next answer is asked of. */
  get model() {
    const wanted = [this.current.model, preferences.get("model")];
    const found = wanted.find((id) => this.models.some((model) => model.id === id));
    return found ?? this.models[0]?.id ?? "";
  }

  setModel(id) {
    this.current.model = id;
    preferences.set("model", id);
    if (this.conversations.has(this.current.id)) this.#save(this.current);
    this.#tell("models");
  }

  open(id) {
    const isNew = !this.conversations.has(this.current.id);
    if (id === this.current.id || (isNew && !this.conversations.has(id))) return;
    this.current = this.conversations.get(id) ?? tree.newConversation({ settings: this.defaults() });
    this.#tell("thread");
    this.#tell("list");
    this.#tell("models");
  }

  /** What new conversations are set to. */
  defaults() {
    try {
      return tree.parseSettings(JSON.parse(preferences.get("defaults") || "{}"));
    } catch {
      return {};
    }
  }

  rename(title) {
    this.current.title = title.trim();
    this.#changed(this.current);
  }

  changeSettings(settings) {
    this.current.settings = settings;
    this.#changed(this.current);
  }

  async remove(id) {
    this.stop(id);
    if (id === this.current.id) this.open("");
    this.conversations.delete(id);
    this.#tell("list");
    await this.#keep(() => this.#store.remove(id));
  }

  async removeAll() {
    await Promise.all([...this.conversations.keys()].map((id) => this.remove(id)));
  }

  /** Adds conversations from a file; one whose id is taken becomes a copy. */
  async import(conversations) {
    for (const conversation of conversations) {
      if (this.conversations.has(conversation.id)) conversation.id = tree.newId();
      this.conversations.set(conversation.id, conversation);
      await this.#save(conversation);
    }
    this.#tell("list");
  }

  send(text, files = []) {
    const last = tree.shown(this.current).at(-1);
    this.#ask(tree.addMessage(this.current, last?.id ?? tree.ROOT, { text, ...(files.length && { files }) }));
  }

  /** Gives the results of an answer's tool calls, and asks for what follows. */
  answerCalls(message, results) {
    let last = message;
    message.calls.forEach((call, index) => {
      last = tree.addMessage(this.current, last.id, { role: "tool", callId: call.id, text: results[index] });
    });
    this.#ask(last);
  }

  /** Another answer to the same, beside this one. */
  regenerate(message) {
    this.#ask(message.role === "assistant" ? this.current.messages[message.parent] : message);
  }

  /** Another version of a message, beside it; a question is asked again. */
  edit(message, text) {
    const { role, files, thoughts, model } = message;
    const kept = { role, text, ...(files && { files }), ...(thoughts && { thoughts }), ...(model && { model }) };
    const edited = tree.addMessage(this.current, message.parent, {
      ...kept,
      ...(role === "assistant" && { finish: "edited" }),
    });
    if (role === "user") this.#ask(edited);
    else this.#changed(this.current);
    return edited;
  }

  show(message) {
    tree.show(this.current, message);
    this.#changed(this.current);
  }

  stop(id = this.current.id) {
    this.running.get(id)?.controller.abort();
  }

  /** Whether a message of the shown conversation is being written. */
  isComing(message) {
    return this.running.get(this.current.id)?.answer === message;
  }

  async #ask(question) {
    const conversation = this.current;
    this.stop(); // what is still being written, and now asked for in another way
    if (!this.models.length) this.loadModels(); // the server may have come up since
    const answer = tree.addMessage(conversation, question?.id ?? tree.ROOT, { role: "assistant", model: this.model });
    const controller = new AbortController();
    this.running.set(conversation.id, { controller, answer });
    this.conversations.set(conversation.id, conversation);
    this.#changed(conversation);
    let saved = Date.now();
    try {
      await fill(conversation, answer, controller.signal, () => {
        if (conversation === this.current) this.#tell("message", answer);
        if (Date.now() - saved < SAVE_EVERY) return;
        saved = Date.now();
        this.#save(conversation);
      });
    } catch (error) {
      if (error.name === "AbortError") answer.finish = "stopped";
      else answer.error = error.message;
      if (error.status === 401) this.#tell("key", error.message);
    }
    delete answer.progress;
    if (this.running.get(conversation.id)?.answer === answer) this.running.delete(conversation.id);
    if (conversation === this.current) this.#tell("done", answer);
    this.#changed(conversation);
  }

  #changed(conversation) {
    if (this.conversations.has(conversation.id)) this.#save(conversation);
    if (conversation === this.current) this.#tell("thread");
    this.#tell("list");
  }

  #save(conversation) {
    return this.#keep(() => this.#store.put(conversation));
  }

  async #keep(write) {
    try {
      await write();
    } catch (error) {
      const full = error.name === "QuotaExceededError";
      this.#tell(
        "notice",
        full
          ? "The browser has no room left for conversations. Export and delete some: nothing new is kept."
          : `The browser could not store the conversation: ${error.message}`,
      );
    }
  }

  /** Takes what another tab stored, unless an answer is coming in here. */
  async #reload(id) {
    if (this.running.has(id)) return;
    const stored = await this.#store.get(id);
    if (stored) this.#take(stored);
    else this.conversations.delete(id);
    if (id === this.current.id && stored) {
      this.current = this.conversations.get(id);
      this.#tell("thread");
    }
    this.#tell("list");
  }

  #take(stored) {
    try {
      this.conversations.set(stored.id, tree.parseConversation(stored));
    } catch (error) {
      this.#tell("notice", `A stored conversation cannot be read: ${error.message}`);
    }
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
