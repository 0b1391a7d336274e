// Puts the page together: state, views, keys, and what the buttons of index.html do.

import { Announcer } from "./announcer.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { titleOf } from "./conversation.js";
import { ask, openSettings } from "./dialogs.js";
import { exportConversations, parseExport } from "./files.js";
import { Sidebar } from "./sidebar.js";
import { preferences } from "./store.js";
import { Thread } from "./thread.js";

const chat = new Chat();
const announcer = new Announcer(chat);
const notice = (text) => announcer.notice(text);
const sidebar = new Sidebar(chat);
const thread = new Thread(chat);
const composer = new Composer(chat, thread, notice);

const ACTIONS = {
  new: () => {
    chat.open("");
    sidebar.close();
    composer.focus();
  },
  settings: () => openSettings(chat, { exportAll, importFile, removeAll }),
  rename: async () => {
    const title = await ask({ title: "Rename the conversation", value: titleOf(chat.current), accept: "Rename" });
    if (title !== undefined) chat.rename(title);
  },
  export: () => exportConversations([chat.current]),
  delete: async () => {
    const text = `“${titleOf(chat.current)}” is removed from this browser for good.`;
    if (!(await ask({ title: "Delete the conversation?", text, accept: "Delete", danger: true }))) return;
    await chat.remove(chat.current.id);
    composer.focus();
  },
  "open-sidebar": () => sidebar.open(),
  "close-sidebar": () => sidebar.close(),
};

document.addEventListener("click", (event) => {
  const action = ACTIONS[event.target.closest("[data-action]")?.dataset.action];
  if (!action) return;
  document.getElementById("menu").hidePopover();
  action();
});
document.addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  const over = document.querySelector("dialog[open], :popover-open"); // closes by this key itself
  if (event.key === "Escape" && !over && chat.running.has(chat.current.id)) chat.stop();
  else if (command && event.shiftKey && event.key.toLowerCase() === "o") ACTIONS.new();
  else if (command && event.key.toLowerCase() === "k") sidebar.search();
  else return;
  event.preventDefault();
});

function exportAll() {
  exportConversations([...chat.conversations.values()]);
}

async function importFile(file) {
  try {
    const conversations = parseExport(await file.text());
    await chat.import(conversations);
    notice(
      conversations.length === 1 ? "One conversation imported." : `${conversations.length} conversations imported.`,
    );
  } catch (error) {
    notice(`${file.name} cannot be imported: ${error.message}.`);
  }
  document.getElementById("settings").close();
}

async function removeAll() {
  const text = `All ${chat.conversations.size} conversations are removed from this browser for good.`;
  if (await ask({ title: "Delete all conversations?", text, accept: "Delete all", danger: true }))
    await chat.removeAll();
}

chat.addEventListener("key", async ({ detail }) => {
  if (document.getElementById("question").open) return;
  const key = await ask({
    title: "API key",
    text: detail,
    value: preferences.get("key"),
    accept: "Use it",
    type: "password",
  });
  if (key === undefined) return;
  preferences.set("key", key.trim());
  chat.loadModels();
});

// The address names the conversation, so that reloading and the browser's back button keep to it.
chat.addEventListener("thread", () => {
  const hash = chat.conversations.has(chat.current.id) ? `#${chat.current.id}` : "";
  if (hash !== location.hash) history.pushState(null, "", hash || location.pathname + location.search);
});
addEventListener("popstate", () => chat.open(location.hash.slice(1)));

const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");

function nameTheme() {
  const shown = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  theme.setAttribute("aria-label", shown === "dark" ? "Switch to light" : "Switch to dark");
  theme.title = theme.getAttribute("aria-label");
  return shown;
}

theme.addEventListener("click", () => {
  const next = nameTheme() === "dark" ? "light" : "dark";
  const chosen = next === (dark.matches ? "dark" : "light") ? "" : next; // as the system has it: follow it again
  preferences.set("theme", chosen);
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  nameTheme();
});
dark.addEventListener("change", nameTheme);
nameTheme();

await Promise.all([chat.load(), chat.loadModels()]);
chat.open(location.hash.slice(1));
composer.focus();
