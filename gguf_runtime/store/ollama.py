"""Models from Ollama: ollama:NAME[:TAG], ollama:USER/NAME[:TAG] or, from another registry, ollama:HOST/USER/NAME[:TAG].

The registry speaks the protocol of container images: a manifest lists blobs by their SHA-256, and the blob of one media
type is the GGUF file. Ollama keeps both on disk under the same names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import expanded
from ..kernels.kernel_cache import home
from .errors import StoreError
from .model import StoredModel, kept_by
from .progress import Progress
from .source import Remote

_REGISTRY = "registry.ollama.ai"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_MODEL = "application/vnd.ollama.image.model"
_NAME = re.compile(
    r"(?:(?P<scheme>https?)://)?(?:(?P<host>[\w.-]+(?::\d+)?)/(?=[^/]+/))?(?:(?P<user>[\w.-]+)/)?"
    r"(?P<model>[\w.-]+)(?::(?P<tag>[\w.-]+))?"
)


@dataclass(frozen=True)
class OllamaSource:
    """A model in a registry."""

    registry: str  # URL
    repo: str  # USER/NAME
    tag: str
    keeper = "Ollama's store"

    @property
    def removal(self) -> str:
        return f"ollama rm {self.name}"

    @property
    def name(self) -> str:
        """As Ollama shows it."""
        host = self.registry.partition("://")[2]
        return f"{host}/{self.repo}:{self.tag}".removeprefix(f"{_REGISTRY}/").removeprefix("library/")

    @classmethod
    def parse(cls, text: str) -> OllamaSource:
        """Raises StoreError."""
        match = _NAME.fullmatch(text)
        if not match:
            raise StoreError(f"ollama:{text} is not of the form ollama:NAME:TAG or ollama:USER/NAME:TAG")
        registry = f"{match['scheme'] or 'https'}://{match['host'] or _REGISTRY}"
        return cls(registry, f"{match['user'] or 'library'}/{match['model']}", match["tag"] or "latest")

    def local(self) -> Path | None:
        """Where Ollama keeps it."""
        host = self.registry.partition("://")[2]
        for folder in _folders():
            manifest = folder / "manifests" / host / self.repo / self.tag
            if manifest.is_file() and (path := _blob(folder, manifest)):
                return path
        return None

    def fetch(self, folder: Path, progress: Progress) -> list[Path]:
        from .download import download_all, get_json

        base = f"{self.registry}/v2/{self.repo}"
        try:
            manifest = get_json(f"{base}/manifests/{self.tag}", {"Accept": _MANIFEST})
        except FileNotFoundError as error:
            raise StoreError(f"Ollama's registry has no {self.name}: ollama.com/search shows what there is") from error
        layer = _model_layer(manifest)
        if layer is None:
            raise StoreError(f"{self.repo}:{self.tag} is not kept as a GGUF file, and cannot be used")
        digest = layer["digest"]
        name = f"{self.repo.rpartition('/')[2]}-{self.tag}.gguf"
        remote = Remote(f"{base}/blobs/{digest}", name, layer.get("size"), digest.removeprefix("sha256:"))
        return download_all({folder / name: remote}, progress)


def cached() -> Iterator[StoredModel]:
    """Every model that Ollama keeps."""
    for folder in _folders():
        for manifest in sorted((folder / "manifests").glob("*/*/*/*")):
            host, user, model, tag = manifest.parts[-4:]
            source = OllamaSource(f"https://{host}", f"{user}/{model}", tag)
            if path := _blob(folder, manifest):
                yield kept_by(source, f"ollama:{source.name}", path)


def _folders() -> Iterator[Path]:
    if folder := os.environ.get("OLLAMA_MODELS"):
        yield expanded(folder)
        return
    yield home() / ".ollama" / "models"
    yield Path("/usr/share/ollama/.ollama/models")  # where its service on Linux keeps them


def _blob(folder: Path, manifest: Path) -> Path | None:
    """The model that a manifest on this machine names, if it is whole."""
    try:
        layer = _model_layer(json.loads(manifest.read_text("utf-8")))
        if layer is None:
            return None
        path = folder / "blobs" / layer["digest"].replace(":", "-")
        return path if path.stat().st_size == layer.get("size", path.stat().st_size) else None
    except (OSError, ValueError):
        return None


def _model_layer(manifest: Any) -> dict[str, Any] | None:
    layers = manifest.get("layers") if isinstance(manifest, dict) else None
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and layer.get("mediaType") == _MODEL:
            return layer if re.fullmatch(r"sha256:[0-9a-f]{64}", str(layer.get("digest"))) else None
    return None
