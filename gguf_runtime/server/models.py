"""The models that are served: found by their names, loaded when they are asked for, within a budget of memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..memory import available
from . import recipes
from .engine import Engine, Start
from .engine_client import EngineClient
from .protocol import Step
from .turns import Turns
from .vocabulary import Failure

if TYPE_CHECKING:
    from ..store import Model as Stored
    from ..store.modelfile import Modelfile
    from .texts import ModelTexts

State = Literal["unloaded", "loading", "loaded"]
_NO_NAMES = ("", "dummy", "tgi")  # what huggingface_hub sends for a server, and TGI's documentation
_BUDGET = 0.8  # of the memory that is free


class Model:
    """A model that can be asked. texts, engine: while it is loaded. n_users: requests that have it now.

    n_bytes: for which it has got room. error: why it could not be loaded the last time.
    """

    def __init__(
        self, name: str, path: str, turns: Turns, aliases: tuple[str, ...] = (), recipe: Modelfile | None = None
    ) -> None:
        self.name, self.path, self.aliases, self.turns, self.recipe = name, path, aliases, turns, recipe
        self.modified = int(Path(path).stat().st_mtime)
        self.state: State = "unloaded"
        self.n_users = self.n_bytes = 0
        self.is_leaving = False  # it is unloaded once nobody uses it
        self.last_used = self.load_seconds = 0.0
        self.expires: float | None = None  # seconds since 1970
        self.error: Failure | None = None
        self.last_step: Step | None = None
        self.loading: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._texts: ModelTexts | None = None
        self._engine: Engine | None = None

    @property
    def texts(self) -> ModelTexts:
        assert self._texts
        return self._texts

    @property
    def engine(self) -> Engine:
        assert self._engine
        return self._engine

    @property
    def n_ctx(self) -> int:
        """Tokens that a text may have: prompt and answer."""
        assert self._engine and self._engine.loaded
        return self._engine.loaded.n_ctx

    @property
    def generates(self) -> bool:
        """Whether it can do more than embed and rank texts."""
        assert self._engine and self._engine.loaded
        return self._engine.loaded.generates

    @property
    def pooling(self) -> str:
        """How it makes one of the embeddings of a text's tokens."""
        assert self._engine and self._engine.loaded
        return self._engine.loaded.pooling

    @property
    def is_idle(self) -> bool:
        return self.state == "loaded" and not self.n_users

    def set(self, texts: ModelTexts | None, engine: Engine | None) -> None:
        self._texts, self._engine = texts, engine
        self.state = "loaded" if engine else "unloaded"
        if not engine:
            self.n_bytes = 0


class Models:
    """Loads and unloads.

    settings: arguments of LLM, for all. budget: bytes for weights and caches together, 0 for most of what is free.
    keep_alive: seconds that a model stays loaded unused; None: until its room is needed.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        *,
        start: Start = EngineClient.start,
        n_engines: int = 1,
        n_parallel: int = 32,
        n_waiting: int = 1024,
        budget: int = 0,
        keep_alive: float | None = None,
        any_name: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """start: a model's engine, which makes n_parallel answers at once in each of n_engines places at most.
        any_name: serve every model on this machine; else those that were added."""
        self.settings, self.keep_alive, self.any_name = settings, keep_alive, any_name
        self._start, self._n_engines = start, n_engines
        self._n_parallel, self._n_waiting, self._say = n_parallel, n_waiting, say
        self._budget = budget or int(_BUDGET * available())
        self.default: Model | None = None  # of requests that name none
        self._known: dict[str, Model] = {}  # by name
        self._gate = asyncio.Lock()  # held by who waits for room: others come after
        self._changed = asyncio.Condition()
        self._on_step: list[Callable[[Model, Step], None]] = []

    def add(self, name: str, path: str, aliases: tuple[str, ...] = (), modelfile: Path | None = None) -> Model:
        """Serve a model. modelfile: what it was created from. Raises StoreError, OSError."""
        turns = Turns(self._n_parallel * self._n_engines, self._n_waiting)
        model = Model(name, path, turns, aliases, recipes.read(modelfile))
        self._known[name] = model
        return model

    def watch(self, on_step: Callable[[Model, Step], None]) -> None:
        """Be told of every step."""
        self._on_step.append(on_step)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._known.values())

    async def all(self) -> list[Model]:
        """All that may be named, with those on this machine that nobody has named yet."""
        if self.any_name:
            for found in await asyncio.to_thread(_on_this_machine):
                if found.name not in self._known:
                    self.add(found.name, str(found.path), modelfile=found.modelfile)
            for model in list(self):
                if model.state == "unloaded" and not os.path.exists(model.path):
                    self.forget(model)
        return list(self)

    def find(self, name: str) -> Model:
        """The model that a name, an alias, or the path of its file stands for. Raises Failure."""
        if name in _NO_NAMES and (self.default or len(self._known) == 1):
            return self.default or next(iter(self))
        plain = name.removesuffix(":latest")
        for model in self._known.values():
            if {name, plain} & {model.name, model.path, *model.aliases}:
                return model
        if self.any_name and (name and not os.path.exists(name)):
            from ..store import StoreError, find

            try:
                found = find(name) or (plain != name and find(plain)) or None
            except StoreError:
                found = None
            if found:
                known = next((model for model in self._known.values() if model.path == str(found.path)), None)
                return known or self.add(found.name, str(found.path), modelfile=found.modelfile)
        served = ", ".join(self._known) or "none so far"
        raise Failure("no_model", f"model {name!r} is not served here; there are: {served}", name=name)

    @asynccontextmanager
    async def use(self, model: Model, keep_alive: float | None = None) -> AsyncIterator[Model]:
        """The model, loaded, for as long as it is needed. Raises Failure.

        keep_alive: seconds that it shall stay loaded afterwards; below 0 for ever, None for the default.
        """
        await self.acquire(model)
        try:
            yield model
        finally:
            self.release(model, keep_alive)

    async def acquire(self, model: Model) -> None:
        """Have the model loaded, and not unloaded before `release`. Raises Failure."""
        model.n_users += 1
        try:
            while model.state != "loaded":
                self.preload(model)
                assert model.loading
                await asyncio.shield(model.loading)
        except BaseException:
            model.n_users -= 1
            raise
        if model.timer:
            model.timer.cancel()
        model.timer = model.expires = None

    def release(self, model: Model, keep_alive: float | None = None) -> None:
        model.n_users -= 1
        model.last_used = time.monotonic()
        if model.n_users:
            return
        if model.is_leaving:
            keep_alive = 0
        seconds = self.keep_alive if keep_alive is None else keep_alive
        if seconds is not None and seconds >= 0:
            model.expires = time.time() + seconds
            loop = asyncio.get_running_loop()
            model.timer = loop.call_later(seconds, lambda: loop.create_task(self._expire(model)))
        asyncio.get_running_loop().create_task(self._notify())

    def preload(self, model: Model) -> None:
        """Begin to load a model."""
        if model.loading is None and model.state == "unloaded":
            model.state = "loading"
            model.loading = asyncio.create_task(self._load(model))
            model.loading.add_done_callback(lambda task: task.cancelled() or task.exception())

    def forget(self, model: Model) -> None:
        """Serve a model no longer."""
        self._known.pop(model.name, None)

    async def unload(self, model: Model, *, at_once: bool = False) -> None:
        """End the model's process, once nobody uses it any more; at_once: what it is doing fails."""
        if model.n_users and not at_once:
            model.is_leaving = True
        elif model.state == "loaded":
            model.is_leaving = False
            engine = model.engine
            model.set(None, None)
            await engine.stop()
            await self._notify()

    async def close(self) -> None:
        """Unload all."""
        loading = [model.loading for model in self if model.loading]
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, *(self.unload(model, at_once=True) for model in self), return_exceptions=True)

    async def _expire(self, model: Model) -> None:
        if model.is_idle:
            await self.unload(model)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _load(self, model: Model) -> None:
        model.error = None
        engine = None
        try:
            start = time.monotonic()
            settings = await self._make_room(model)
            template = self.settings.get("chat_template") or recipes.template(model.recipe)
            texts = asyncio.create_task(asyncio.to_thread(_texts, model.path, template))
            texts.add_done_callback(lambda task: task.cancelled() or task.exception())
            engine = await self._start(
                model.path,
                settings,
                self._n_parallel,
                on_step=lambda step: self._note(model, step),
                on_death=lambda engine: self._revive(model, engine),
            )
            model.set(await texts, engine)
            model.load_seconds = time.monotonic() - start
            self._say(f"{model.name} is loaded: a context of {model.n_ctx} tokens, {model.load_seconds:.1f} s")
        except Exception as error:
            failure = error if isinstance(error, Failure) else Failure("failed", f"{model.name}: {error}")
            if engine:
                await engine.stop()
            model.set(None, None)
            model.error = failure
            await self._notify()
            raise failure from error
        finally:
            model.loading = None

    async def _make_room(self, model: Model) -> dict[str, Any]:
        """Unload what is least recently used until there is room; gives the settings to load with."""
        weights = os.path.getsize(model.path)
        caches = self.settings.get("kv_memory") or self._budget // 4
        settings = {**self.settings, "n_ctx": self.settings.get("n_ctx") or recipes.n_ctx(model.recipe)}
        if len(self._known) == 1 and not self.any_name:
            return settings
        async with self._gate:
            while self._n_bytes and self._n_bytes + weights + caches > self._budget:
                idle = [other for other in self if other is not model and other.is_idle]
                if idle:
                    await self.unload(min(idle, key=lambda other: other.last_used))
                else:
                    async with self._changed:
                        await self._changed.wait()
            model.n_bytes = weights + caches
        return {**settings, "kv_memory": caches}

    @property
    def _n_bytes(self) -> int:
        """What all models take that have got room."""
        return sum(model.n_bytes for model in self)

    def _note(self, model: Model, step: Step) -> None:
        model.last_step = step
        for on_step in self._on_step:
            on_step(model, step)

    def _revive(self, model: Model, engine: Engine) -> None:
        """The engine's process is gone: begin another."""
        if model.state == "loaded" and model.engine is engine:
            self._say(f"the engine of {model.name} has ended unexpectedly: it is started again")
            model.set(None, None)
            self.preload(model)


def _on_this_machine() -> list[Stored]:
    from ..store import all_models

    return list(all_models())


def _texts(path: str, chat_template: str | None) -> ModelTexts:
    from .texts import ModelTexts

    return ModelTexts(path, chat_template)
