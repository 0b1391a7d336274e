"""Options that several commands share; `loading` knows what those of models and machines stand for."""

from __future__ import annotations

import os
from typing import Any

import click

from .command import group, section
from .kinds import (
    Bytes,
    Decorator,
    Devices,
    GpuLayers,
    JsonObject,
    Metadata,
    Override,
    Shares,
    cache_type,
    flag,
    integer,
    number,
    path,
    text,
)


def _in_environment(name: str, value: str | None = None) -> dict[str, Any]:
    """Settings of an option that stands for a variable of the environment."""

    def set_variable(ctx: click.Context, option: click.Parameter, given: Any) -> None:
        if given:
            os.environ[name] = value or given

    return {"expose_value": False, "callback": set_variable}


def _list_devices(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from .devices import show

        show()
        ctx.exit()


verbose_option = flag("-v", "--verbose", "--log-verbose", "verbose", help="Timings, and tracebacks of errors.")
model_option = path(
    "-m", "--model", metavar="MODEL", help="A GGUF file, or a name: llama3.2:1b, hf:OWNER/REPO, ollama:NAME, a URL."
)
model_options = group(
    model_option,
    text("-hf", "-hfr", "--hf-repo", "hf_repo", metavar="OWNER/REPO[:QUANT]", help="A model of Hugging Face."),
    text("-hff", "--hf-file", "hf_file", metavar="FILE", help="Which file of -hf."),
    text("-mu", "--model-url", metavar="URL", help="A model by its URL."),
    text("-hft", "--hf-token", metavar="TOKEN", help="As HF_TOKEN.", **_in_environment("HF_TOKEN")),
    flag("--offline", help="Get nothing from the network.", **_in_environment("HF_HUB_OFFLINE", "1")),
)
draft_options = group(
    path(
        "-md", "--draft", "--model-draft", "--spec-draft-model", "draft", metavar="MODEL",
        help="A small model that guesses ahead.",
    ),
    text(
        "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf", "draft_repo", metavar="OWNER/REPO[:QUANT]",
        help="The same, of Hugging Face.",
    ),
)  # fmt: skip
template_options = group(
    text("--chat-template", metavar="NAME", help="Use this template: a name, such as chatml, a file, or Jinja itself."),
    path("--chat-template-file", help="The same, in a file."),
    click.option(
        "--chat-template-kwargs", "template_variables", type=JsonObject(), default=dict, metavar="JSON",
        show_default=False, help='Variables for the template, such as {"enable_thinking": false}.',
    ),
    text("--in-prefix", help="What comes before each message, instead of a chat template's."),
    text("--in-suffix", help="What comes after it."),
    flag("--in-prefix-bos", help="Begin each message with BOS, before --in-prefix."),
)  # fmt: skip
reasoning_options = group(
    click.option("-rea", "--reasoning", type=click.Choice(["on", "off", "auto"]), default="auto",
                 help="Whether the model shall think first, if it can; auto: as it likes."),
    text("--reasoning-effort", metavar="LEVEL", help="How much, for templates that ask: low, medium, high …"),
    integer("--reasoning-budget", at_least=-1, default=-1, help="Tokens of thinking at most; -1: no limit."),
    text("--reasoning-budget-message", default="", show_default=False, help="What to put after a thought cut short."),
    click.option("--reasoning-format", type=click.Choice(["none", "deepseek", "deepseek-legacy", "auto"]),
                 default="auto", help="Leave thoughts in the answer, take them out, or both; auto: out in a chat."),
)  # fmt: skip
answer_options = group(
    integer(
        "-n", "--predict", "--n-predict", at_least=-2, default=-1, show_default="no limit",
        help="Tokens at most; -2: until the context is full.",
    ),
    text("--stop", "-r", "--reverse-prompt", "stop", multiple=True, help="End before this text."),
    flag("--ignore-eos", help="Go on where the model would end."),
    flag("--context-shift/--no-context-shift", help="In a full context, forget what is oldest and go on."),
    integer(
        "--keep", at_least=-1, default=None, show_default="the prompt, up to half the context",
        help="Tokens of the prompt to keep then; -1: all.",
    ),
    click.option("--lookup/--no-lookup", default=True, help="Guess tokens from the text so far: faster."),
)  # fmt: skip
conversation_options = group(
    flag("-st", "--single-turn", help="Chat for one message."),
    flag("-mli", "--multiline-input", "multiline", help="In a chat, Enter begins a new line; after \\ it sends."),
)

#: Where on GPUs layers go, named as LLM has it.
placement_options = group(
    click.option(
        "-ts", "--tensor-split", type=Shares(), default=(), metavar="X,...", show_default=False,
        help="Shares of the GPUs, such as 3,1.",
    ),
    integer("-mg", "--main-gpu", at_least=0, help="Use this GPU alone.", show_default="all of them"),
    click.option(
        "-ot", "--override-tensor", "override_tensors", type=Override(), multiple=True, metavar="REGEX=DEVICE",
        help="Put each block with a tensor of such a name, a layer's attention or feed-forward, on CPU or CUDA0 …",
    ),
    flag("-cmoe", "--cpu-moe", help="Keep feed-forwards with experts in RAM, as -ot '_exps=CPU' does."),
    integer("-ncmoe", "--n-cpu-moe", at_least=0, default=0, help="The same, of the first N layers."),
    click.option(
        "-kvo/-nkvo", "--kv-offload/--no-kv-offload", "offload_kv", default=True, help="Layers' cache where they are.",
    ),
    integer("--ray-stages", at_least=0, default=0, show_default="none", help="Divide layers among N Ray actors."),
    text("--ray-address", metavar="HOST:PORT", help="The Ray cluster; auto: this machine's. Or: RAY_ADDRESS."),
)  # fmt: skip

#: Changes to the model's metadata.
metadata_options = group(
    click.option(
        "--override-kv", type=Metadata(), multiple=True, metavar="KEY=TYPE:VALUE,...",
        help="Take keys of the metadata to be these; TYPE: int, float, bool or str.",
    ),
    click.option("--rope-scaling", type=click.Choice(["none", "linear", "yarn"]), help="How RoPE is stretched."),
    number("--rope-scale", at_least=0, help="By which factor the context is stretched; 0: the model's own."),
    number("--rope-freq-scale", at_least=0, help="1 through that factor; 0: the model's own."),
    number("--rope-freq-base", at_least=0, help="Base of RoPE's frequencies; 0: the model's own."),
    integer("--yarn-orig-ctx", at_least=0, help="Tokens of context before it was stretched; 0: the model's own."),
    number("--yarn-ext-factor", at_least=-1, help="How much YaRN extrapolates; -1: the model's own."),
    number("--yarn-attn-factor", at_least=-1, help="What YaRN scales attention by; -1: the model's own."),
    number("--yarn-beta-fast", at_least=-1, help="Rotations from which YaRN leaves a dimension; -1: the model's own."),
    number("--yarn-beta-slow", at_least=-1, help="Rotations up to which YaRN stretches it all; -1: the model's own."),
)  # fmt: skip


def machine_options(ctx_size: int = 0) -> Decorator:
    """With what a model is run; by default with a context of this size."""
    return group(
        integer("-c", "--ctx-size", at_least=0, default=ctx_size, help="Tokens of context; 0: as many as trained for."),
        integer(
            "-t", "--threads", at_least=-1, default=-1, show_default="physical cores", help="Threads to compute with.",
        ),
        integer(
            "-tb", "--threads-batch", at_least=-1, default=-1, show_default="as -t",
            help="The same; -t goes before it.",
        ),
        integer("-b", "--batch-size", at_least=1, default=2048, help="Tokens per batch."),
        integer(
            "-ub", "--ubatch-size", at_least=1, default=None, help="Tokens of a batch to compute at once.",
            show_default="512 on the CPU, 2048 on a GPU",
        ),
        click.option(
            "-ngl", "--gpu-layers", "--n-gpu-layers", "gpu_layers", type=GpuLayers(), default="auto", metavar="N",
            help="Layers to put on GPUs, the last first: N, all, or auto: as many as fit.",
        ),
        click.option(
            "-dev", "--device", "devices", type=Devices(), metavar="NAMES", help="GPUs to use: CUDA0,CUDA1 or none.",
        ),
        click.option(
            "-sm", "--split-mode", type=click.Choice(["none", "layer"]), default="layer",
            help="How several GPUs share a model: by layers, or not at all: the first one has it.",
        ),
        placement_options,
        cache_type("-ctk", "--cache-type-k", default="f16", help="Type of the cache's keys."),
        cache_type("-ctv", "--cache-type-v", default="f16", help="Type of the cache's values."),
        click.option(
            "--kv-memory", type=Bytes(), metavar="SIZE", show_default="what is free",
            help="Memory for keys and values, as in 4G.",
        ),
        click.option("--mmap/--no-mmap", default=True, help="Map the file, or read all of it at first."),
        flag("--mlock", help="Keep the weights in memory."),
        click.option(
            "-lm", "--load-mode", type=click.Choice(["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"]),
            default="auto", help="Both in one, as llama.cpp has it.",
        ),
        flag(
            "--list-devices", is_eager=True, expose_value=False, callback=_list_devices, help="Show the GPUs, and exit."
        ),
    )  # fmt: skip


#: What `load` takes of a command that runs a model.
def load_options(ctx_size: int = 0) -> Decorator:
    return group(section("Machine", machine_options(ctx_size)), section("Metadata", metadata_options))
