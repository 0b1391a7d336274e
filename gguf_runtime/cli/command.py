"""How commands read their arguments: strictly, and with an eye to llama.cpp's options.

An option of one dash and several letters, such as -ngl, is a name of its own and is never read as letters (-n -g -l).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import click

from .. import __version__

Decorated = Callable[..., Any]

_ATTACHED = re.compile(r"(-[a-zA-Z])(\d[\d.]*)")  # -n8
_UNNEEDED = "gguf_runtime.cli.unneeded"  # where a context keeps what -v tells of options without effect
_NEAR = 0.8  # of a name's letters that are right where it is a slip of the pen


def group(*options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """One decorator that adds these options, in this order."""

    def add(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def section(title: str, *options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """The same, under a title of their own in `--help`."""

    def add(command: Decorated) -> Decorated:
        n_before = len(getattr(command, "__click_params__", ()))
        command = group(*options)(command)
        for option in command.__click_params__[n_before:]:  # type: ignore[attr-defined]
            option.section = title
        return command

    return add


class Command(click.Command):
    """A command that takes its options by their whole names; --version too, wherever it stands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if ctx.resilient_parsing else list(self._spelled_out(ctx, args)))

    def unknown(self, ctx: click.Context, name: str, following: list[str]) -> int:
        """An option that the command does not have: how many arguments after it to skip with it. Raises UsageError."""
        import difflib

        near = difflib.get_close_matches(name, self._options(ctx), n=1, cutoff=_NEAR) if len(name) > 3 else []
        raise click.NoSuchOption(name, possibilities=near, ctx=ctx)

    def _spelled_out(self, ctx: click.Context, args: list[str]) -> Iterator[str]:
        """The arguments, each option by itself and before its value."""
        known, i = self._options(ctx), 0
        while i < len(args):
            arg, i = args[i], i + 1
            if arg == "--":
                yield from args[i - 1 :]
                return
            if not arg.startswith("-") or arg == "-":
                yield arg
                continue
            name, equals, value = arg.partition("=")
            name = name.replace("_", "-") if arg.startswith("--") else name  # as llama.cpp does
            name = "--help" if name == "--usage" else name
            values = [value] if equals else []
            if not equals and (match := _ATTACHED.fullmatch(arg)) and _n_values(known.get(match[1])):
                name, values = match[1], [match[2]]
            if name == "--version" and not equals:
                click.echo(f"ggrun {__version__}")
                ctx.exit()
            if name in known:
                n = _n_values(known[name]) - len(values)
                if n > 0:
                    values, i = [*values, *args[i : i + n]], i + n
                elif n < 0:
                    raise click.BadOptionUsage(name, f"Option {name!r} does not take a value.", ctx)
                yield from (name, *values)
            else:
                n = self.unknown(ctx, name, values or args[i:])
                i += 0 if values else n

    def _options(self, ctx: click.Context) -> dict[str, click.Option]:
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        return {name: option for option in options for name in (*option.opts, *option.secondary_opts)}


class LlamaCommand(Command):
    """One with a counterpart in llama.cpp: takes that one's options, or says why not. Its `--help` has sections."""

    serves = False  # whether the counterpart is llama-server

    def unknown(self, ctx: click.Context, name: str, following: list[str]) -> int:
        from . import llama_cpp

        row = llama_cpp.find(name, serves=self.serves)
        if row is None:
            return super().unknown(ctx, name, following)
        if row.fate == "done":
            raise click.UsageError(f"{name} is an option of `ggrun run`, not of `{ctx.command_path}`", ctx)
        if row.fate == "refused":
            raise click.UsageError(f"{name} is not supported: {row.why}", ctx)
        n = row.n_values(following)
        if n > len(following):
            raise click.BadOptionUsage(name, f"Option {name!r} requires an argument.", ctx)
        ctx.meta.setdefault(_UNNEEDED, []).append(f"{name} changes nothing here: {row.why}")
        return n

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.params.get("verbose"):
            for line in ctx.meta.get(_UNNEEDED, ()):
                click.echo(f"ggrun: {line}", err=True)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                sections.setdefault(getattr(option, "section", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class ServerCommand(LlamaCommand):
    """One whose counterpart is llama-server."""

    serves = True


def _n_values(option: click.Option | None) -> int:
    """How many arguments belong to an option."""
    return 0 if option is None or option.is_flag or option.count else option.nargs
