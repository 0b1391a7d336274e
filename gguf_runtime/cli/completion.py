"""`ggrun completion`: what makes a shell complete ggrun's commands and options."""

from __future__ import annotations

import click

from .command import Command

VARIABLE = "_GGRUN_COMPLETE"  # in the environment of ggrun when a shell asks it what could follow
_HELP = """Print the completion script of a shell.

\b
bash, in ~/.bashrc:                      eval "$(ggrun completion bash)"
zsh, in ~/.zshrc, after compinit:        eval "$(ggrun completion zsh)"
fish, in ~/.config/fish/config.fish:     ggrun completion fish | source
"""


@click.command(cls=Command, help=_HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(click.get_current_context().find_root().command, {}, "ggrun", VARIABLE)
    # not its source(), which first runs bash to see how old it is
    click.echo(completion.source_template % completion.source_vars())


def complete(app: click.Command, instruction: str) -> int:
    """Answer a shell's question; the exit code."""
    from click.shell_completion import shell_complete

    return shell_complete(app, {}, "ggrun", VARIABLE, instruction)
