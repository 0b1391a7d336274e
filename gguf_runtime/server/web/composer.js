// The box that messages are written in: sending, stopping, files, and the choice of the model.

import { el } from "./dom.js";
import { readFiles } from "./files.js";
import { fileChips, shortName } from "./turn.js";

const touch = matchMedia("(pointer: coarse)");

export class Composer {
  #chat;
  #thread;
  #drafts = new Map(); // conversation id, or "" for a new one → {text, files}
  #place = "";
  #files = [];
  #form = document.getElementById("composer");
  #area = document.getElementById("message");
  #send = document.getElementById("send");
  #stop = document.getElementById("stop");
  #model = document.getElementById("model");
  #attached = document.getElementById("attached");

  constructor(chat, thread, notice) {
    this.#chat = chat;
    this.#thread = thread;
    this.notice = notice;
    this.#form.addEventListener("submit", (event) => this.#submit(event));
    this.#area.addEventListener("keydown", (event) => this.#key(event));
    this.#area.addEventListener("input", () => this.#fit());
    this.#stop.addEventListener("click", () => chat.stop());
    this.#model.addEventListener("change", () => chat.setModel(this.#model.value));
    this.#takeFiles();
    chat.addEventListener("thread", () => this.#draw());
    chat.addEventListener("models", () => this.#drawModels());
    this.#draw();
    this.#drawModels();
    this.#fit();
  }

  focus() {
    if (!touch.matches) this.#area.focus(); // on a phone it would bring up the keyboard
  }

  #submit(event) {
    event.preventDefault();
    const text = this.#area.value.trim();
    if ((!text && !this.#files.length) || this.#chat.running.has(this.#chat.current.id)) return;
    const files = this.#files;
    this.#files = [];
    this.#area.value = "";
    this.#drawFiles();
    this.#fit();
    this.#chat.send(text, files);
    if (touch.matches) this.#area.blur();
    else this.#area.focus();
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey && (!touch.matches || event.ctrlKey || event.metaKey))
      this.#submit(event);
    if (event.key === "ArrowUp" && !this.#area.value) {
      event.preventDefault();
      this.#thread.editLast();
    }
  }

  #draw() {
    const { current, running } = this.#chat;
    const place = this.#chat.conversations.has(current.id) ? current.id : "";
    if (place !== this.#place) {
      this.#drafts.set(this.#place, { text: this.#area.value, files: this.#files });
      this.#place = place;
      const draft = this.#drafts.get(place);
      this.#area.value = draft?.text ?? "";
      this.#files = draft?.files ?? [];
      this.#drawFiles();
      this.#fit();
    }
    const busy = running.has(current.id);
    const focused = document.activeElement;
    this.#stop.hidden = !busy;
    this.#send.hidden = busy;
    if (busy && focused === document.body) this.#stop.focus(); // the button that was pressed is gone
    if (!busy && focused === this.#stop) this.focus();
  }

  #drawModels() {
    const { models, model } = this.#chat;
    this.#model.replaceChildren(...models.map(({ id }) => el("option", { value: id }, shortName(id))));
    this.#model.value = model;
    this.#model.title = model;
    this.#model.disabled = !models.length;
  }

  #drawFiles() {
    this.#attached.hidden = !this.#files.length;
    this.#attached.replaceChildren(
      ...fileChips(this.#files, (index) => {
        this.#files = this.#files.filter((_, at) => at !== index);
        this.#drawFiles();
        this.#area.focus();
      }),
    );
  }

  #fit() {
    this.#area.style.height = "auto";
    this.#area.style.height = `${Math.min(this.#area.scrollHeight, innerHeight * 0.4)}px`;
    this.#send.disabled = !this.#area.value.trim() && !this.#files.length;
  }

  /** From the button, by dropping anywhere, and by pasting. */
  #takeFiles() {
    const input = document.getElementById("file");
    document.getElementById("attach").addEventListener("click", () => input.click());
    input.addEventListener("change", async () => {
      await this.#add([...input.files]);
      input.value = "";
    });
    this.#area.addEventListener("paste", (event) => {
      if (!event.clipboardData.files.length) return;
      event.preventDefault();
      this.#add([...event.clipboardData.files]);
    });
    addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      this.#form.classList.add("dropping");
    });
    addEventListener("dragleave", (event) => event.relatedTarget ?? this.#form.classList.remove("dropping"));
    addEventListener("drop", (event) => {
      this.#form.classList.remove("dropping");
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.#add([...event.dataTransfer.files]);
    });
  }

  async #add(files) {
    const { texts, refused } = await readFiles(files);
    this.#files = [...this.#files, ...texts];
    this.#drawFiles();
    this.#fit();
    refused.forEach((reason) => this.notice(reason));
    this.#area.focus();
  }
}
