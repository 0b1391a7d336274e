// What is told: notices that all see, and for screen readers the beginning and the end of an answer, not each word.

import { el, iconButton } from "./dom.js";

const SHORT = 400; // characters of an answer that are read out whole
const NOTICE_STAYS = 12_000; // ms

export class Announcer {
  #notices = document.getElementById("notices");
  #announcer = document.getElementById("announcer");
  #heard = null; // the message whose beginning was told

  constructor(chat) {
    chat.addEventListener("notice", ({ detail }) => this.notice(detail));
    chat.addEventListener("message", ({ detail }) => {
      if (detail !== this.#heard) this.#say("The answer is coming in.");
      this.#heard = detail;
    });
    chat.addEventListener("done", ({ detail }) => this.#say(spoken(detail)));
  }

  notice(text) {
    if ([...this.#notices.children].some((shown) => shown.firstChild.textContent === text)) return;
    const remove = () => shown.remove();
    const shown = el("div", { class: "notice" }, el("span", {}, text), iconButton("close", "Dismiss", remove));
    this.#notices.append(shown);
    setTimeout(remove, NOTICE_STAYS);
  }

  #say(text) {
    this.#announcer.textContent = text;
  }
}

function spoken({ error, finish, calls, text }) {
  if (error) return error;
  if (finish === "stopped") return "The answer was stopped.";
  if (calls?.length) return `The answer asks for ${calls.map((call) => call.name).join(", ")}.`;
  const plain = text.replace(/[*_`#>|]+/g, "").trim();
  return plain.length <= SHORT ? `Answer: ${plain}` : `The answer is there, ${plain.split(/\s+/).length} words.`;
}
