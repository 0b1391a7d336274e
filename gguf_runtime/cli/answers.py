"""What the commands that answer have in common: options of an answer, and how they are sorted."""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from ..files import read_text
from .command import group
from .kinds import flag, integer, number, path, text
from .prompt import escape_option, unescaped
from .sampling import chain_options

sampling_options = group(
    number("--temp", "--temperature", "temperature", default=0.8, help="Temperature; 0: greedy."),
    integer("--top-k", default=40, help="Choose among the N likeliest; 0: off."),
    number("--top-p", default=0.95, help="Choose among the likeliest that make up X; 1: off."),
    number("--min-p", default=0.05, help="Choose among those X times as likely as the best; 0: off."),
    number("--repeat-penalty", default=1.0, help="Divide the logits of seen tokens; 1: off."),
    integer("--repeat-last-n", default=64, help="How far back tokens count as seen; -1: all the way."),
    number("--presence-penalty", default=0.0, help="Subtract from the logits of seen tokens."),
    number("--frequency-penalty", default=0.0, help="Subtract for each time that a token was seen."),
    chain_options,
    integer("-s", "--seed", default=-1, show_default="random", help="The same seed gives the same text."),
)
system_options = group(
    text("-sys", "--system", "--system-prompt", "system", help="How the model shall behave."),
    path("-sysf", "--system-prompt-file", "system_file", help="The same, in a file."),
    escape_option,
)
raw_options = group(
    flag("--raw", help="Complete the bare text, without a chat template."),
    click.option(
        "-cnv/-no-cnv", "--conversation/--no-conversation", "conversation", default=None,
        help="Chat, the prompt being the first message; -no-cnv is --raw.",
    ),
)  # fmt: skip

#: What only a single answer can have.
FOR_ONE_ANSWER = {
    "form": "--json", "display_prompt": "--display-prompt", "prompt_cache": "--prompt-cache",
    "prompt_cache_ro": "--prompt-cache-ro", "exact": "--exact",
}  # fmt: skip


class Dialogue(NamedTuple):
    """How messages become what the model reads, and what it says is shown.

    template: instead of the model's. variables: for it. system: empty for none. history: messages that go before.
    reasoning: a format of llama.cpp's.
    """

    template: str | None
    variables: dict[str, Any]
    system: str
    reasoning: str
    history: tuple[dict[str, Any], ...] = ()

    def messages(self, text: str, system: str | None = None) -> list[dict[str, Any]]:
        """The conversation in which a person says this; system: instead of the usual one."""
        system = self.system if system is None else system
        first = [{"role": "system", "content": system}] if system else []
        return [*first, *self.history, {"role": "user", "content": text}]


def take_dialogue(options: dict[str, Any]) -> Dialogue:
    """Take the options of system_options, template_options and reasoning_options out of all, and have escapes replaced
    in the others. Raises UsageError, OSError."""
    escape = options["escape"]
    for name in ("stop", "dry_sequence_breakers"):
        options[name] = unescaped(options[name], escape)
    system = unescaped(options.pop("system"), escape)
    if (file := options.pop("system_file")) is not None:
        if system is not None:
            raise click.UsageError("two system prompts: -sys and -sysf")
        system = read_text(file, errors="replace").removesuffix("\n")
    variables = options.pop("template_variables")
    if taken := {"messages", "tools"} & variables.keys():
        raise click.UsageError(f"--chat-template-kwargs cannot set {min(taken)}: that is the conversation itself")
    if (wanted := options.pop("reasoning")) != "auto":
        variables = {"enable_thinking": wanted == "on", **variables}
    if effort := options.pop("reasoning_effort"):
        variables = {"reasoning_effort": effort, **variables} if effort != "default" else variables
    message = unescaped(options.pop("reasoning_budget_message"), escape)
    if (budget := options.pop("reasoning_budget")) >= 0:
        from ..chat.thinking import Thinking

        options["thinking"] = Thinking(budget, message)
        variables = variables if budget else {"enable_thinking": False, **variables}
    return Dialogue(_template(options), variables, system or "", options.pop("reasoning_format"))


def _template(options: dict[str, Any]) -> str | None:
    """The chat template that the options ask for, None for the model's own."""
    escape = options.pop("escape")
    prefix, suffix = (unescaped(options.pop(name), escape) for name in ("in_prefix", "in_suffix"))
    bos, named, file = (options.pop(name) for name in ("in_prefix_bos", "chat_template", "chat_template_file"))
    affixed = prefix is not None or suffix is not None or bos
    if affixed + (named is not None) + (file is not None) > 1:
        raise click.UsageError("two chat templates: take one of --chat-template, --chat-template-file and --in-prefix")
    if affixed:
        from ..chat.builtin import between

        return between(prefix or "", suffix or "", bos)
    if file is not None:
        named = read_text(file, errors="replace")
    if named is not None:
        _check_template(named, "--chat-template" if file is None else "--chat-template-file")
    return named


def _check_template(template: str, option: str) -> None:
    """Raises BadParameter for what is no template, before a model is loaded."""
    from ..chat.builtin import find
    from ..chat.template import ChatError, ChatTemplate

    try:
        ChatTemplate(find(template), {}, whose="the given")
    except ChatError as error:
        raise click.BadParameter(str(error), param_hint=f"'{option}'") from None


def sort_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort options into those of `LLM.stream`, checked, and those of `load`."""
    from ..sampling import SamplingParams

    names = SamplingParams.__dataclass_fields__.keys()
    if len([name for name in ("json_schema", "grammar", "regex") if options.get(name) is not None]) > 1:
        raise click.UsageError("an answer has one form: take one of --json-schema, --grammar and --regex")
    sampling = {name: value for name, value in options.items() if name in names}
    try:
        SamplingParams(**sampling)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    rest = {name: value for name, value in options.items() if name not in names}
    predict = rest.pop("predict")
    if predict == -2:  # until the context is full, and no further
        rest["context_shift"] = False
    answer = {"max_tokens": None if predict < 0 else predict, "n_keep": rest.pop("keep"), **sampling}
    for name in ("stop", "ignore_eos", "context_shift", "lookup", "exact", "thinking"):
        if name in rest:
            answer[name] = rest.pop(name)
    return answer, rest
