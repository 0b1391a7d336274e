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
from .protocol import Loaded, StepReport
from .turns import TurnQueue
from .vocabulary import Failure

if TYPE_CHECKING:
    from ..store import StoredModel
    from ..store.modelfile import Modelfile
    from .texts import ModelTexts

State = Literal["unloaded", "loading", "loaded"]
_NO_NAMES = ("", "dummy", "tgi")  # what huggingface_hub sends for a server, and TGI's documentation
_BUDGET = 0.8  # of the memory that is free


class ServedModel:
    """A model that can be asked. texts, engine: while it is loaded. n_users: requests that have it now.

    name: what it is listed as: the first of its aliases, if it has any; all its names find it, and any does where "*"
    is one. n_bytes: for which it has got room. embeds: it is asked for embeddings, for which one that generates
    has a second cache. error: why it could not be loaded the last time.
    """

    def __init__(
        self, name: str, path: str, turns: TurnQueue, aliases: tuple[str, ...] = (), recipe: Modelfile | None = None
    ) -> None:
        self.aliases = tuple(alias for alias in aliases if alias != "*")
        self.name = next(iter(self.aliases), name)
        self.names = {name, path, Path(path).name, *aliases}
        self.path, self.turns, self.recipe = path, turns, recipe
        self.modified = int(Path(path).stat().st_mtime)
        self.state: State = "unloaded"
        self.n_users = self.n_bytes = 0
        self.embeds = False
        self.is_leaving = False  # it is unloaded once nobody uses it
        self.waits = False  # for others to make room for it
        self.last_used = self.load_seconds = 0.0
        self.last_n_ctx: int | None = None  # as it was loaded the last time
        self.expires: float | None = None  # seconds since 1970
        self.error: Failure | None = None
        self.last_step: StepReport | None = None
        self.loading: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._texts: ModelTexts | None = None
        self._engine: Engine | None = None
        self._loaded: Loaded | None = None  # what the engine said of itself

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
        return self._facts.n_ctx

    @property
    def generates(self) -> bool:
        """Whether it can do more than embed and rank texts."""
        return self._facts.generates

    @property
    def pooling(self) -> str:
        """How it makes one of the embeddings of a text's tokens."""
        return self._facts.pooling

    @property
    def is_idle(self) -> bool:
        return self.state == "loaded" and not self.n_users

    def set(self, texts: ModelTexts | None, engine: Engine | None) -> None:
        """It is loaded, or no longer: then who uses it still has its texts, to end what was begun."""
        self._engine = engine
        self.state = "loaded" if engine else "unloaded"
        if engine:
            self._texts, self._loaded = texts, engine.loaded
        else:
            self.n_bytes = 0
            self.drop()

    def drop(self) -> None:
        """Keep no texts of a model that is not loaded, if nobody uses it."""
        if self.state == "unloaded" and not self.n_users:
            self._texts = self._loaded = None

    @property
    def _facts(self) -> Loaded:
        assert self._loaded
        return self._loaded


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
        n_most: int = 0,
        loads: bool = True,
        any_name: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """start: a model's engine, which makes n_parallel answers at once in each of n_engines places at most. n_most:
        models in memory at once, 0 for as many as fit. loads: load what is asked for, else only what `preload` is
        called for. any_name: serve every model on this machine; else those that were added."""
        self.settings, self.keep_alive, self.any_name = settings, keep_alive, any_name
        self.n_most, self.loads = n_most, loads
        self._start, self._n_engines = start, n_engines
        self._n_parallel, self._n_waiting, self._say = n_parallel, n_waiting, say
        self._budget = budget or int(_BUDGET * available())
        self.default: ServedModel | None = None  # of requests that name none
        self._known: dict[str, ServedModel] = {}  # by name
        self._gate = asyncio.Lock()  # held by who waits for room: others come after
        self._changed = asyncio.Condition()
        self._on_step: list[Callable[[ServedModel, StepReport], None]] = []

    def add(self, name: str, path: str, aliases: tuple[str, ...] = (), modelfile: Path | None = None) -> ServedModel:
        """Serve a model. modelfile: what it was created from. Raises StoreError, OSError."""
        turns = TurnQueue(self._n_parallel * self._n_engines, self._n_waiting)
        model = ServedModel(name, path, turns, aliases, recipes.read(modelfile))
        self._known[model.name] = model
        return model

    def watch(self, on_step: Callable[[ServedModel, StepReport], None]) -> None:
        """Be told of every step."""
        self._on_step.append(on_step)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._known.values())

    async def all(self) -> list[ServedModel]:
        """All that may be named, with those on this machine that nobody has named yet."""
        if self.any_name:
            for found in await asyncio.to_thread(_on_this_machine):
                if found.name not in self._known:
                    self.add(found.name, str(found.path), modelfile=found.modelfile)
            for model in list(self):
                if model.state == "unloaded" and not os.path.exists(model.path):
                    self.forget(model)
        return list(self)

    def find(self, name: str) -> ServedModel:
        """The model that a name, an alias, or the path of its file stands for. Raises Failure."""
        if name in _NO_NAMES and (self.default or len(self._known) == 1):
            return self.default or next(iter(self))
        plain = name.removesuffix(":latest")
        for model in self._known.values():
            if {name, plain} & model.names:
                return model
        if any_named := next((model for model in self if "*" in model.names), None):
            return any_named
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
    async def use(self, model: ServedModel, keep_alive: float | None = None) -> AsyncIterator[ServedModel]:
        """The model, loaded, for as long as it is needed. Raises Failure.

        keep_alive: seconds that it shall stay loaded afterwards; below 0 for ever, None for the default.
        """
        await self.acquire(model)
        try:
            yield model
        finally:
            self.release(model, keep_alive)

    async def acquire(self, model: ServedModel) -> None:
        """Have the model loaded, and not unloaded before `release`. Raises Failure."""
        model.n_users += 1
        try:
            while model.state != "loaded":
                if not self.loads and model.state == "unloaded":
                    raise Failure(
                        "invalid", f"{model.name} is not loaded: have it loaded by /models/load", field="model"
                    )
                self.preload(model)
                assert model.loading
                await asyncio.shield(model.loading)
        except BaseException:
            model.n_users -= 1
            model.drop()
            if model.waits and model.loading and not model.n_users:
                model.loading.cancel()  # nobody wants it any more: no other has to go for it
            raise
        if model.timer:
            model.timer.cancel()
        model.timer = model.expires = None

    def release(self, model: ServedModel, keep_alive: float | None = None) -> None:
        model.n_users -= 1
        model.last_used = time.monotonic()
        if model.n_users:
            return
        model.drop()
        self._rest(model, 0 if model.is_leaving else keep_alive)

    def _rest(self, model: ServedModel, keep_alive: float | None = None) -> None:
        """Nobody uses the model any more, or yet: have it unloaded in time."""
        seconds = self.keep_alive if keep_alive is None else keep_alive
        if seconds is not None and seconds >= 0:
            model.expires = time.time() + seconds
            loop = asyncio.get_running_loop()
            model.timer = loop.call_later(seconds, lambda: loop.create_task(self._expire(model)))
        asyncio.get_running_loop().create_task(self._notify())

    async def let_embed(self, model: ServedModel) -> None:
        """Have room for what embedding takes beside answering, at once or when the model is loaded.

        To be awaited by nobody whom others wait for, as for a model that is to be idle: both would wait for ever.
        """
        if model.embeds:
            return
        async with self._gate:
            if model.n_bytes:
                await self._free(self._n_wanted(model, embeds=True) - model.n_bytes, model)
            model.embeds = True
            if model.n_bytes:  # it has not been unloaded meanwhile
                model.n_bytes = self._n_wanted(model)

    def preload(self, model: ServedModel) -> None:
        """Begin to load a model."""
        if model.loading is None and model.state == "unloaded":
            model.state = "loading"
            model.loading = asyncio.create_task(self._load(model))
            model.loading.add_done_callback(lambda task: task.cancelled() or task.exception())

    def forget(self, model: ServedModel) -> None:
        """Serve a model no longer."""
        self._known.pop(model.name, None)

    def template(self, model: ServedModel) -> str | None:
        """The chat template that is used instead of the file's. Raises GoTemplateError."""
        return self.settings.get("chat_template") or recipes.template(model.recipe)

    async def unload(self, model: ServedModel, *, at_once: bool = False) -> None:
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

    async def _expire(self, model: ServedModel) -> None:
        if model.is_idle:
            await self.unload(model)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _load(self, model: ServedModel) -> None:
        model.error = None
        engine = None
        try:
            start = time.monotonic()
            settings = await self._make_room(model)
            texts = asyncio.create_task(asyncio.to_thread(_texts, model.path, self.template(model)))
            texts.add_done_callback(lambda task: task.cancelled() or task.exception())
            engine = await self._start(
                model.path,
                settings,
                self._n_parallel,
                on_step=lambda step: self._note(model, step),
                on_death=lambda engine: self._revive(model, engine),
            )
            model.set(await texts, engine)
            if model.n_bytes:
                model.n_bytes = self._n_wanted(model)  # less, where it proves to be an encoder
            model.last_n_ctx = model.n_ctx
            if not model.n_users:
                self._rest(model)
            model.load_seconds = time.monotonic() - start
            self._say(f"{model.name} is loaded: a context of {model.n_ctx} tokens, {model.load_seconds:.1f} s")
        except asyncio.CancelledError:
            if engine:
                await engine.stop()
            model.set(None, None)
            raise
        except Exception as error:
            failure = error if isinstance(error, Failure) else Failure("failed", f"{model.name}: {error}")
            if engine:
                await engine.stop()
            model.set(None, None)
            model.error = failure
            await self._notify()
            raise failure from error
        finally:
            model.loading, model.waits = None, False

    async def _make_room(self, model: ServedModel) -> dict[str, Any]:
        """Have room for a model; gives the settings to load with."""
        settings = {**self.settings, "n_ctx": self.settings.get("n_ctx") or recipes.n_ctx(model.recipe)}
        if len(self._known) == 1 and not self.any_name:
            return settings
        async with self._gate:
            await self._free(self._n_wanted(model), model)
            model.n_bytes = self._n_wanted(model)
        return {**settings, "kv_memory": self._n_cache}

    async def _free(self, n_bytes: int, model: ServedModel) -> None:
        """Unload others than the model, the least recently used first, until there is room for so much more."""
        while self._is_full(n_bytes, model):
            idle = [other for other in self if other is not model and other.is_idle]
            if idle:
                await self.unload(min(idle, key=lambda other: other.last_used))
            else:
                async with self._changed:
                    model.waits = True
                    await self._changed.wait()
                    model.waits = False

    @property
    def _n_cache(self) -> int:
        """Bytes of a cache of keys and values."""
        return int(self.settings.get("kv_memory") or self._budget // 4)

    def _n_wanted(self, model: ServedModel, embeds: bool = False) -> int:
        """Bytes of a model: its file, and a cache for answers, for texts to embed, or for each."""
        has_two = (model.embeds or embeds) and (model.state != "loaded" or model.generates)
        return os.path.getsize(model.path) + self._n_cache * (1 + has_two)

    def _is_full(self, n_bytes: int, model: ServedModel) -> bool:
        """Whether another model has to go before this one can have so much more."""
        n_others = sum(other.n_bytes > 0 for other in self if other is not model)
        too_many = 0 < self.n_most <= n_others
        return too_many or (n_others > 0 and self._n_bytes + n_bytes > self._budget)

    @property
    def _n_bytes(self) -> int:
        """What all models take that have got room."""
        return sum(model.n_bytes for model in self)

    def _note(self, model: ServedModel, step: StepReport) -> None:
        model.last_step = step
        for on_step in self._on_step:
            on_step(model, step)

    def _revive(self, model: ServedModel, engine: Engine) -> None:
        """The engine's process is gone: begin another."""
        if model.state == "loaded" and model.engine is engine:
            self._say(f"the engine of {model.name} has ended unexpectedly: it is started again")
            model.set(None, None)
            self.preload(model)


def _on_this_machine() -> list[StoredModel]:
    from ..store import all_models

    return list(all_models())


def _texts(path: str, chat_template: str | None) -> ModelTexts:
    from .texts import ModelTexts

    return ModelTexts(path, chat_template)
