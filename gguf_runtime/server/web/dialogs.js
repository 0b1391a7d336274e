// The two dialogs: the sheet of settings, and the small one that asks something.

import { el, iconButton } from "./dom.js";
import { EFFORTS, NUMBERS, parseTools } from "./parameters.js";
import { preferences } from "./store.js";

/** Asks for a line of text, or with no `value` for yes or no; resolves to the text, true, or undefined. */
export function ask({ title, text, value, accept, danger = false, type = "text" }) {
  const dialog = document.getElementById("question");
  const input =
    value === undefined
      ? undefined
      : el("input", { type, value, "aria-labelledby": "question-title", autocomplete: "off" });
  return new Promise((resolve) => {
    const form = el(
      "form",
      { method: "dialog" },
      el("h2", { id: "question-title" }, title),
      text && el("p", {}, text),
      input,
      el(
        "div",
        { class: "row" },
        el("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
        el("button", { type: "submit", class: danger ? "primary danger" : "primary", value: "yes" }, accept),
      ),
    );
    dialog.replaceChildren(form);
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => {
        resolve(dialog.returnValue !== "yes" ? undefined : input ? input.value : true);
        dialog.replaceChildren();
      },
      { once: true },
    );
    dialog.showModal();
    input?.select();
  });
}

/** Shows the settings; `actions` are exportAll, importFile and removeAll. */
export function openSettings(chat, actions) {
  const dialog = document.getElementById("settings");
  const { settings } = chat.current;
  const change = (name, value) => {
    const changed = { ...chat.current.settings, [name]: value };
    if (value === "" || value === undefined) delete changed[name];
    chat.changeSettings(changed);
  };
  const keep = el(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: () => {
        preferences.set("defaults", JSON.stringify(chat.current.settings));
        keep.textContent = "Kept for new conversations";
      },
    },
    "Keep for new conversations",
  );
  dialog.replaceChildren(
    el(
      "header",
      {},
      el("h2", { id: "settings-title" }, "Settings"),
      iconButton("close", "Close the settings", () => dialog.close()),
    ),
    el(
      "div",
      { class: "sheet-body" },
      el(
        "section",
        { "aria-labelledby": "settings-here" },
        el("h3", { id: "settings-here" }, "This conversation"),
        area("System prompt", settings.system, 3, (text) => change("system", text)),
        el(
          "div",
          { class: "grid" },
          ...NUMBERS.map((parameter) => number(parameter, settings[parameter.name], change)),
          effort(settings.reasoning_effort, change),
        ),
        area("Stop at", settings.stop, 2, (text) => change("stop", text), { hint: "One text a line; the answer ends before it." }),
        toolsArea(settings.tools, change),
        el("div", { class: "row left" }, keep),
      ),
      browserSection(chat, actions),
    ),
  );
  dialog.onclick = (event) => event.target === dialog && dialog.close();
  dialog.showModal();
}

function browserSection(chat, { exportAll, importFile, removeAll }) {
  const file = el("input", {
    type: "file",
    accept: ".json,application/json",
    hidden: true,
    "aria-label": "A file of conversations",
  });
  file.addEventListener("change", async () => {
    await importFile(file.files[0]);
    file.value = "";
  });
  const setKey = (text) => {
    preferences.set("key", text.trim());
    chat.loadModels();
  };
  return el(
    "section",
    { "aria-labelledby": "settings-browser" },
    el("h3", { id: "settings-browser" }, "This browser"),
    field(
      "API key",
      el("input", {
        type: "password",
        value: preferences.get("key"),
        autocomplete: "off",
        onchange: (event) => setKey(event.target.value),
      }),
      "Kept here, and sent to this server only.",
    ),
    el(
      "div",
      { class: "row left" },
      file,
      el("button", { type: "button", class: "quiet", onclick: exportAll }, "Export all"),
      el("button", { type: "button", class: "quiet", onclick: () => file.click() }, "Import"),
      el("button", { type: "button", class: "quiet danger", onclick: removeAll }, "Delete all"),
    ),
    el("h3", {}, "Keys"),
    el(
      "dl",
      { class: "keys" },
      ...[
        ["Enter", "send"],
        ["Shift Enter", "new line"],
        ["Esc", "stop the answer"],
        ["↑", "edit the last message"],
        ["Ctrl K", "search"],
        ["Ctrl Shift O", "new conversation"],
      ].map(([key, does]) =>
        el("div", {}, el("dt", {}, ...key.split(" ").map((part) => el("kbd", {}, part))), el("dd", {}, does)),
      ),
    ),
  );
}

let fields = 0;

/** A control with its label above and a hint or complaint below. */
function field(label, control, hint) {
  const id = `field-${(fields += 1)}`;
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}-hint`);
  return el(
    "div",
    { class: "field" },
    el("label", { for: id }, label),
    control,
    hint && el("p", { class: "hint", id: `${id}-hint` }, hint),
  );
}

function area(label, value, rows, onchange, { hint, ...props } = {}) {
  return field(
    label,
    el("textarea", { rows, value: value ?? "", onchange: (event) => onchange(event.target.value), ...props }),
    hint,
  );
}

function number({ name, label, empty = "model’s own", ...limits }, value, change) {
  const read = (event) =>
    event.target.reportValidity() && change(name, event.target.value === "" ? undefined : event.target.valueAsNumber);
  return field(
    label,
    el("input", {
      type: "number",
      inputmode: "decimal",
      placeholder: empty,
      value: value ?? "",
      onchange: read,
      ...limits,
    }),
  );
}

function effort(value, change) {
  const options = EFFORTS.map(([name, label]) =>
    el("option", { value: name, selected: name === (value ?? "") }, label),
  );
  return field(
    "Thinking",
    el("select", { onchange: (event) => change("reasoning_effort", event.target.value) }, ...options),
  );
}

function toolsArea(value, change) {
  const hint = "Functions as JSON. Their calls are shown here, and you give the results.";
  const made = area(
    "Tools",
    value,
    3,
    (text) => {
      let wrong = "";
      try {
        parseTools(text);
        change("tools", text);
      } catch (error) {
        wrong = error.message;
      }
      made.querySelector("textarea").setAttribute("aria-invalid", String(Boolean(wrong)));
      made.querySelector(".hint").textContent = wrong || hint;
    },
    { hint, spellcheck: "false", class: "mono" },
  );
  return made;
}
