// Where conversations are kept: IndexedDB, or only this page's memory where the browser has none to give.

const TABLE = "conversations";

export class Store {
  #database = null;
  #channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("ggrun");

  /** `changed(id)` is called when another tab stored or removed a conversation. */
  constructor(changed) {
    this.#channel?.addEventListener("message", (event) => changed(event.data));
  }

  /** Opens the store; false where nothing will outlive the page. */
  async open() {
    try {
      const request = indexedDB.open("ggrun", 1);
      request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
      this.#database = await result(request);
      this.#database.onversionchange = () => this.#database.close();
      return true;
    } catch {
      return false;
    }
  }

  async all() {
    return this.#database ? result(this.#table("readonly").getAll()) : [];
  }

  async get(id) {
    return this.#database ? result(this.#table("readonly").get(id)) : undefined;
  }

  /** Rejects with the browser's error, QuotaExceededError where there is no room. */
  async put(conversation) {
    if (!this.#database) return;
    await this.#write((table) => table.put(conversation));
    this.#channel?.postMessage(conversation.id);
  }

  async remove(id) {
    if (!this.#database) return;
    await this.#write((table) => table.delete(id));
    this.#channel?.postMessage(id);
  }

  #table(mode) {
    return this.#database.transaction(TABLE, mode).objectStore(TABLE);
  }

  /** Waits for the transaction: a full disk is only known when it ends. */
  #write(change) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction(TABLE, "readwrite");
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new Error("the browser gave no reason"));
      change(transaction.objectStore(TABLE));
    });
  }
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older store"));
  });
}

/** Small things by name: theme, key, defaults. Without storage they last as long as the page. */
export const preferences = {
  memory: new Map(),
  get(name) {
    try {
      return localStorage.getItem(`ggrun.${name}`) ?? this.memory.get(name) ?? "";
    } catch {
      return this.memory.get(name) ?? "";
    }
  },
  set(name, value) {
    this.memory.set(name, value);
    try {
      if (value) localStorage.setItem(`ggrun.${name}`, value);
      else localStorage.removeItem(`ggrun.${name}`);
    } catch {
      // kept in memory
    }
  },
};
