"""What a model that was made from a Modelfile brings with it: settings, a system message, a template."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from .answers import Dialogue, take_dialogue

if TYPE_CHECKING:
    from ..store.modelfile import Modelfile

#: Ollama's parameters → options, where these have other names
_OPTIONS = {
    "num_ctx": "ctx_size", "num_predict": "predict", "num_keep": "keep", "num_batch": "batch_size",
    "num_thread": "threads", "num_gpu": "gpu_layers", "use_mmap": "mmap", "use_mlock": "mlock",
}  # fmt: skip


class Recipe(NamedTuple):
    """A Modelfile, or None, as what the command line leaves open."""

    modelfile: Modelfile | None = None

    def complete(self, dialogue: Dialogue) -> Dialogue:
        """The dialogue with the Modelfile's template, system message and messages where it has none."""
        if self.modelfile is None:
            return dialogue
        template = dialogue.template
        if template is None and self.modelfile.template is not None:
            from ..chat.gotemplate import to_jinja

            template = to_jinja(self.modelfile.template)
        messages = tuple({"role": role, "content": text} for role, text in self.modelfile.messages)
        return dialogue._replace(
            template=template, system=dialogue.system or self.modelfile.system or "", history=messages
        )

    def set_defaults(self, ctx: click.Context, options: dict[str, Any]) -> None:
        """Set the options that the command line does not."""
        given: dict[str, Any] = {}
        for name, value in self.modelfile.parameters if self.modelfile else ():
            if name == "stop":
                value = (*given.get(name, ()), value)
            elif name == "num_gpu" and value < 0:
                value = "auto"
            given[_OPTIONS.get(name, name)] = value
        for option, value in given.items():
            if ctx.get_parameter_source(option) in (ParameterSource.DEFAULT, None):
                options[option] = value


def by_recipe(ctx: click.Context, model: str | None, options: dict[str, Any]) -> Dialogue:
    """Take how to talk with a model out of the options, its Modelfile filling in what the command line leaves open."""
    recipe = recipe_of(model)
    dialogue = recipe.complete(take_dialogue(options))
    recipe.set_defaults(ctx, options)
    return dialogue


def recipe_of(model: str | None) -> Recipe:
    """That of a model by its name; an empty one for a file. Raises StoreError."""
    if model is None or os.path.exists(model):
        return Recipe()
    from ..store import Store, modelfile

    found = Store().find(model)
    return Recipe(modelfile.read(found.modelfile) if found and found.modelfile else None)
