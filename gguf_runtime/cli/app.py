"""`ggrun`: its commands, and how the process ends.

Exit codes: 0 done (or the reader of our output left), 1 failed, 2 wrong usage, 130 Ctrl-C, 129 and 143 hung up and
terminated.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from .. import __version__
from . import process
from .command import Command

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: Command → what it is for. Each is `command` in the module of its name, but for those of `models` and `running`.
COMMANDS = {
    "run": "Answer a prompt (what ggrun does when no command is named).",
    "chat": "Talk with a model (what ggrun MODEL does at a terminal).",
    "serve": "Serve models over HTTP, by OpenAI's API and others.",
    "bench": "Measure the speed of a model, as llama-bench does.",
    "perplexity": "Measure how well a model predicts a text, as llama-perplexity does.",
    "embed": "Show texts as vectors.",
    "rerank": "Show texts in the order in which they answer a query.",
    "tokenize": "Show the tokens of a text.",
    "inspect": "Show the metadata and tensors of a GGUF file.",
    "pull": "Get a model by its name.",
    "create": "Make a model of another one and a Modelfile.",
    "list": "List the models on this machine, or with --catalog those to get.",
    "ps": "Show the models that a server has in memory.",
    "stop": "Have a server unload models.",
    "show": "Show what a model is and needs.",
    "rm": "Remove a model that was pulled.",
    "cp": "Give a model another name.",
    "devices": "Show the CPU and the GPUs, and what of a model fits where.",
    "completion": "Print the completion script of bash, zsh or fish.",
    "help": "Show what a command takes.",
}
_IN_MODULES = {
    **dict.fromkeys(("pull", "create", "list", "show", "rm", "cp"), "models"),
    **dict.fromkeys(("ps", "stop"), "running"),
}
_SLIP = 0.7  # of a command's letters that are right where it is a slip of the pen


class _Commands(click.Group):
    """The commands, imported when they are named; `run` goes without saying."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name == "help":
            return _help
        if name in _IN_MODULES:
            module = importlib.import_module(f".{_IN_MODULES[name]}", __package__)
            return getattr(module, "list_" if name == "list" else name)
        return importlib.import_module(f".{name}", __package__).command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = ["--help", *args[1:]] if args[:1] == ["--usage"] else args
        ours = [*COMMANDS, *ctx.help_option_names, "--version"]
        completing = ctx.resilient_parsing and not args  # a command may follow yet
        if completing or (args and args[0] in ours):
            return super().parse_args(ctx, args)
        if args and not ctx.resilient_parsing:
            _check_verb(args[0], ctx)
        return super().parse_args(ctx, ["run", *args])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            run = self.get_command(ctx, "run")
            found += run.shell_complete(click.Context(run, parent=ctx), incomplete)
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        run = self.get_command(ctx, "run")
        run.format_options(click.Context(run, parent=ctx), formatter)
        with formatter.section("Commands (ggrun COMMAND --help)"):
            formatter.write_dl(list(COMMANDS.items()))


def _check_verb(word: str, ctx: click.Context) -> None:
    """Raises UsageError for what is no model, and nearly a command."""
    import difflib

    near = difflib.get_close_matches(word.lower(), COMMANDS, n=1, cutoff=_SLIP)
    if near and not os.path.exists(word):
        from ..store import find

        if find(word) is None:
            raise click.UsageError(f"{word} is neither a command nor a model here: did you mean {near[0]}?", ctx)


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True},
    options_metavar="[MODEL] [PROMPT] [OPTIONS]",
    subcommand_metavar="",
)
@click.version_option(__version__, message="ggrun %(version)s")
def app() -> None:
    """Run a GGUF language model on this machine."""


@click.command("help", cls=Command, help=COMMANDS["help"])
@click.argument("command", required=False, type=click.Choice(list(COMMANDS)), metavar="[COMMAND]")
@click.pass_context
def _help(ctx: click.Context, command: str | None) -> None:
    root = ctx.find_root()
    if command is None:
        click.echo(app.get_help(root))
    elif found := app.get_command(root, command):
        click.echo(found.get_help(click.Context(found, parent=root, info_name=command)))


def run() -> int:
    """Run the command of `sys.argv`. However it ends, that becomes an exit code and at most one line on stderr."""
    args = sys.argv[1:]
    try:
        if question := os.environ.get("_GGRUN_COMPLETE"):
            from .completion import complete

            return complete(app, question)
        with app.make_context("ggrun", args) as context:
            app.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as exit:  # --help, --version
        return exit.exit_code
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        return 0  # whoever read our output has enough
    except KeyboardInterrupt:  # in a chat, which has signals to itself
        return process.INTERRUPTED
    except SystemExit as exit:
        return int(exit.code or 0)
    except Exception as error:
        if "-v" in args or "--verbose" in args:
            import traceback

            traceback.print_exc()
        print(f"ggrun: {process.describe(error)}", file=sys.stderr)
        return 1
