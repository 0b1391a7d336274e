"""The folder of models that were pulled: GGRUN_MODELS, or a place in the user's data folder.

Each model has a folder with its files and, once all of them are whole, `model.json`, which says what they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..files import data_folder, expanded
from .disk import link_or_copy
from .errors import StoreError
from .hub import HubSource
from .model import StoredModel
from .progress import Progress
from .source import Source, file_name, is_gguf

_RECORD, _MODELFILE = "model.json", "Modelfile"
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")  # Windows takes these for devices


class Store:
    """Models by name. Methods raise StoreError."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or _root()

    def models(self) -> list[StoredModel]:
        """Those that are here, and the GGUF files that somebody put into the folder."""
        records = [self._read(folder) for folder in sorted(self.root.glob("*/"))]
        own = [StoredModel(path.stem, (path,)) for path in self._own()]
        return sorted([model for model in records if model] + own, key=lambda model: model.name)

    def find(self, name: str) -> StoredModel | None:
        if model := self._read(self._folder(name)):
            return model
        return next((StoredModel(name, (path,)) for path in self._own() if path.stem == name), None)

    def _own(self) -> list[Path]:
        """GGUF files that somebody put here."""
        return sorted(path for path in self.root.glob("*") if is_gguf(path.name) and path.is_file())

    def pull(self, name: str, source: Source, progress: Progress | None = None) -> StoredModel:
        """Get a model, or what is missing of it; two that pull the same one at once share the work."""
        folder, progress = self._folder(name), progress or Progress(name)
        with self._locked(folder, progress):
            files = source.fetch(folder, progress)
            if files[0].parent != folder:
                shutil.rmtree(folder, ignore_errors=True)  # where earlier versions of ggrun kept them
                return StoredModel(name, tuple(files), source)
            for path in {*folder.iterdir()} - {*files, folder / _RECORD}:  # of an earlier version, or a pull cut short
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            _write_record(folder, name, files)
        return StoredModel(name, tuple(files))

    def remove(self, model: StoredModel) -> None:
        """Remove a model, unless others keep it; what Hugging Face's cache keeps may have been pulled."""
        if isinstance(model.keeper, HubSource):
            return model.keeper.remove(model.files)
        if model.keeper:
            raise StoreError(f"{model.name} is not ggrun's but in {model.place}: {model.keeper.removal}")
        if model.path.parent == self.root:
            model.path.unlink()
            return
        folder = self._folder(model.name)
        with self._locked(folder, Progress(model.name)):
            (folder / _RECORD).unlink(missing_ok=True)  # from here on it is not here
            shutil.rmtree(folder, ignore_errors=True)

    def copy(self, model: StoredModel, new_name: str, modelfile: str | None = None) -> StoredModel:
        """Another name for the same files, which take no room twice where the file system has hard links.

        modelfile: how the model of that name is to be asked, instead of how this one is.
        """
        if self.find(new_name):
            raise StoreError(f"{new_name} is there already: remove it first with `ggrun rm {new_name}`")
        folder, progress = self._folder(new_name), Progress(new_name)
        with self._locked(folder, progress):
            folder.mkdir(parents=True, exist_ok=True)
            files = [folder / file_name(file.name) for file in model.files]
            for old, new in zip(model.files, files, strict=True):
                link_or_copy(old.resolve(), new, progress)  # Hugging Face's are symbolic links
            if modelfile is None and model.modelfile:
                modelfile = model.modelfile.read_text("utf-8")
            if modelfile is not None:
                (folder / _MODELFILE).write_text(modelfile, "utf-8")
            _write_record(folder, new_name, files)
        return StoredModel(new_name, tuple(files), modelfile=folder / _MODELFILE if modelfile is not None else None)

    def _folder(self, name: str) -> Path:
        """A name that every file system takes, and no two models share."""
        plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip(".-")[:80]
        if _RESERVED.fullmatch(plain):
            plain = f"_{plain}"
        told_apart = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
        return self.root / (plain if plain == name else f"{plain}-{told_apart}")

    def _read(self, folder: Path) -> StoredModel | None:
        try:
            record = json.loads((folder / _RECORD).read_text("utf-8"))
            files = tuple(folder / Path(file).name for file in record["files"])
            if not files or not all(file.is_file() for file in files):
                return None
            modelfile = folder / _MODELFILE
            return StoredModel(str(record["name"]), files, modelfile=modelfile if modelfile.is_file() else None)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @contextlib.contextmanager
    def _locked(self, folder: Path, progress: Progress) -> Iterator[None]:
        from filelock import FileLock, Timeout

        try:
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / ".locks" / f"{folder.name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                progress.say("another ggrun is at this model: waiting for it")
                lock.acquire()
        except OSError as error:
            raise StoreError(f"{error.filename or self.root}: {error.strerror or error}") from error
        try:
            yield
        finally:
            progress.end()
            lock.release()


def _write_record(folder: Path, name: str, files: list[Path]) -> None:
    part = folder / f"{_RECORD}.part"
    part.write_text(json.dumps({"name": name, "files": [file.name for file in files]}, indent=1), "utf-8")
    os.replace(part, folder / _RECORD)


def _root() -> Path:
    if folder := os.environ.get("GGRUN_MODELS"):
        return expanded(folder)
    return data_folder() / "models"
