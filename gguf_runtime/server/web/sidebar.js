// The list of conversations: by day, or what a search finds. On a phone it slides over the page.

import { titleOf } from "./conversation.js";
import { el } from "./dom.js";

const DAY = 86_400_000;
const month = new Intl.DateTimeFormat("en", { month: "long", year: "numeric" });
const narrow = matchMedia("(max-width: 760px)");

export class Sidebar {
  #chat;
  #nav = document.getElementById("sidebar");
  #list = document.getElementById("list");
  #search = document.getElementById("search");
  #page = document.getElementById("page");
  #opener = document.querySelector("[data-action=open-sidebar]");

  constructor(chat) {
    this.#chat = chat;
    chat.addEventListener("list", () => this.#draw());
    this.#search.addEventListener("input", () => this.#draw());
    this.#search.addEventListener("keydown", (event) => this.#key(event));
    this.#list.addEventListener("keydown", (event) => this.#key(event));
    document.getElementById("scrim").addEventListener("click", () => this.close());
    this.#nav.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    narrow.addEventListener("change", () => this.#place(false));
    this.#place(false);
    this.#draw();
  }

  open() {
    this.#place(true);
    this.#nav.querySelector("[data-action=close-sidebar]").focus();
  }

  close() {
    if (!narrow.matches || this.#nav.inert) return;
    this.#place(false);
    this.#opener.focus();
  }

  search() {
    if (narrow.matches) this.open();
    this.#search.focus();
    this.#search.select();
  }

  /** What is not seen cannot be reached: the list while it is away, the page while the list covers it. */
  #place(open) {
    this.#nav.inert = narrow.matches && !open;
    this.#page.inert = narrow.matches && open;
    document.body.classList.toggle("sidebar-open", narrow.matches && open);
    this.#opener.setAttribute("aria-expanded", String(open));
  }

  #draw() {
    const focused = this.#list.contains(document.activeElement) ? document.activeElement.dataset.id : undefined;
    const wanted = this.#search.value.trim().toLocaleLowerCase();
    const all = [...this.#chat.conversations.values()].sort((one, other) => other.updated - one.updated);
    const groups = wanted ? [["Found", all.map((each) => found(each, wanted)).filter(Boolean)]] : byDay(all);
    const shown = groups.filter(([, rows]) => rows.length);
    this.#list.replaceChildren(
      ...shown.flatMap(([name, rows]) => {
        const id = `group-${name.replace(/\W/g, "-")}`;
        return [el("h2", { id }, name), el("ul", { "aria-labelledby": id }, ...rows.map((row) => this.#row(row)))];
      }),
    );
    if (!shown.length)
      this.#list.append(el("p", { class: "empty" }, wanted ? "Nothing found." : "No conversations yet."));
    if (focused) this.#list.querySelector(`[data-id="${focused}"]`)?.focus();
  }

  #row({ conversation, before, match, after }) {
    const current = conversation.id === this.#chat.current.id;
    const open = () => {
      this.#chat.open(conversation.id);
      this.close();
    };
    return el(
      "li",
      {},
      el(
        "button",
        {
          type: "button",
          class: "row-button",
          "data-id": conversation.id,
          "aria-current": current ? "page" : undefined,
          onclick: open,
        },
        el("span", { class: "row-title" }, titleOf(conversation)),
        this.#chat.running.has(conversation.id) && el("span", { class: "busy", title: "An answer is coming in" }),
        match !== undefined && el("span", { class: "row-found" }, before, el("mark", {}, match), after),
      ),
    );
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape" && this.#search.value) {
      event.stopPropagation();
      this.#search.value = "";
      this.#draw();
    }
    if (!step) return;
    event.preventDefault();
    const stops = [this.#search, ...this.#list.querySelectorAll("button")];
    stops[stops.indexOf(document.activeElement) + step]?.focus();
  }
}

function byDay(conversations) {
  const today = new Date().setHours(0, 0, 0, 0);
  const groups = new Map();
  for (const conversation of conversations) {
    const { updated } = conversation;
    const name =
      updated >= today
        ? "Today"
        : updated >= today - DAY
          ? "Yesterday"
          : updated >= today - 6 * DAY
            ? "Last seven days"
            : month.format(updated);
    groups.set(name, [...(groups.get(name) ?? []), { conversation }]);
  }
  return [...groups];
}

/** Where the words stand in a conversation's title or messages. */
function found(conversation, wanted) {
  if (titleOf(conversation).toLocaleLowerCase().includes(wanted)) return { conversation };
  for (const { text } of Object.values(conversation.messages)) {
    const at = text.toLocaleLowerCase().indexOf(wanted);
    if (at >= 0) {
      const end = at + wanted.length;
      return {
        conversation,
        before: `${at > 24 ? "…" : ""}${text.slice(Math.max(0, at - 24), at)}`,
        match: text.slice(at, end),
        after: text.slice(end, end + 60),
      };
    }
  }
  return undefined;
}
