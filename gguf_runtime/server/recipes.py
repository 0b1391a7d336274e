"""What a model that was created from a Modelfile brings with it, for requests that leave it open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .vocabulary import AnswerRequest

if TYPE_CHECKING:
    from ..store.modelfile import Modelfile

_NOT_SAMPLING = {
    "num_ctx", "num_predict", "num_keep", "num_batch", "num_thread", "num_gpu", "main_gpu", "use_mmap", "use_mlock",
    "stop",
}  # fmt: skip


def read(path: Path | None) -> Modelfile | None:
    """The Modelfile at a path. Raises StoreError, OSError."""
    if path is None:
        return None
    from ..store import modelfile

    return modelfile.read(path)


def apply(recipe: Modelfile, request: AnswerRequest) -> None:
    """Fill in what the request leaves open."""
    given = dict(recipe.parameters)
    request.defaults |= {name: value for name, value in given.items() if name not in _NOT_SAMPLING}
    request.stop = request.stop or [str(value) for name, value in recipe.parameters if name == "stop"]
    if request.max_tokens is None and given.get("num_predict", -1) >= 0:
        request.max_tokens = given["num_predict"]
    if request.messages is None:
        return
    first = [{"role": role, "content": text} for role, text in recipe.messages]
    has_system = any(message.get("role") in ("system", "developer") for message in request.messages)
    if recipe.system and not has_system:
        first.insert(0, {"role": "system", "content": recipe.system})
    n_system = int(has_system and request.messages[0].get("role") in ("system", "developer"))
    request.messages = [*request.messages[:n_system], *first, *request.messages[n_system:]]


def template(recipe: Modelfile | None) -> str | None:
    """The chat template that it has. Raises GoTemplateError."""
    if recipe is None or recipe.template is None:
        return None
    from ..chat.gotemplate import to_jinja

    return to_jinja(recipe.template)


def n_ctx(recipe: Modelfile | None) -> int:
    """The context that it asks for; 0 for none."""
    return int(dict(recipe.parameters).get("num_ctx", 0)) if recipe else 0
