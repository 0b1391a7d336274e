"""Grammars that hold answers to calls of tools, in the form that the model writes them, for llguidance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .argument_grammar import ArgumentGrammar
from .rules import GrammarRules
from .tool_choice import ToolChoice
from .tool_format import AnswerFormat, Calls, MessageTurns, Slot

_ID = r"/[a-zA-Z0-9]{1,9}/"
_NUMBER = r"/[0-9]{1,3}/"
_BY_NAME, _INSIDE = {"properties", "$defs", "definitions"}, {"items", "prefixItems", "anyOf", "oneOf"}
_OPEN = {"additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"}  # may name other keys
_MAX_CALLS = 16  # of one answer, which small models would not end


def tool_grammar(
    form: AnswerFormat, choice: ToolChoice, *,
    parallel: bool, closing: str, special: Mapping[str, int], ends: Iterable[str],
) -> str:
    """What an answer has to be: calls of tools, after thoughts perhaps; where there need be none, any text but calls.

    parallel: whether there may be several. closing: what ends the thoughts that the prompt has begun. special: tokens
    that are no text; ends: those of them that end an answer. Raises GrammarError.
    """
    rules = GrammarRules(special)
    calls = form.calls[0]
    written = _Calls(rules, calls, choice, parallel and calls.several, tuple(ends))
    if form.turns:
        start = _turns(rules, form.turns, written, choice.must)
    elif choice.must:
        start = f"{_thoughts(rules, form, closing)} {written.all()}"
    else:
        start = f"{_thoughts(rules, form, closing)} {written.perhaps()}"
    return rules.text(start)


def _thoughts(rules: GrammarRules, form: AnswerFormat, closing: str) -> str:
    """Thoughts that have begun, or may begin."""
    if closing:
        return f"{rules.up_to(closing)} {_SPACE}"
    open, close = form.thoughts[0] if len(form.thoughts) == 1 else ("", "")
    return f"({rules.literal(open)} {rules.up_to(close)} {_SPACE})?" if open and close else ""


_SPACE = r"/\s{0,4}/"


def _turns(rules: GrammarRules, turns: MessageTurns, written: _Calls, must: bool) -> str:
    """An answer of several messages: thoughts, then a call, or text."""
    end, start, message = turns.ends[0], turns.start, turns.message
    if turns.call:  # gpt-oss
        thought = f"{rules.literal('<|channel|>analysis' + message)} {rules.up_to(end)} {rules.literal(start)}"
        text = f"{rules.literal('<|channel|>final' + message)} {rules.rest()}"
        call = written.all()
    else:
        thought = f"{rules.literal(' to=self' + message)} {rules.up_to(end)} {rules.literal(start)}"
        text = f"{rules.literal(' to=user' + message)} {rules.rest()}"
        call = " | ".join(
            f"{rules.words(f' to={name}')} {rules.literal(message)} {written.section(written.call(name))}"
            for name in written.names
        )
    return f"({thought})? ({call}{'' if must else f' | {text}'})"


class _Calls:
    """Calls as rules."""

    def __init__(
        self, rules: GrammarRules, calls: Calls, choice: ToolChoice, several: bool, ends: tuple[str, ...]
    ) -> None:
        self._rules, self._calls, self._several, self._ends = rules, calls, several, ends
        self._schemas = {name: _closed(schema) for name, schema in (choice.schemas or {}).items()}
        self.names = list(self._schemas)

    def all(self, less: str = "") -> str:
        """One call or several, with what is around them; without their first text, if that is given."""
        any_call = self._rules.add(
            " | ".join(self.call(name, "" if self._calls.section_open else less) for name in self.names)
        )
        if not self._several:
            return self.section(any_call, less)
        more = (
            any_call
            if not less or self._calls.section_open
            else self._rules.add(" | ".join(map(self.call, self.names)))
        )
        separator = self._rules.literal(self._calls.separator)
        return self.section(f"{any_call} ({separator} {more}){{0,{_MAX_CALLS - 1}}}", less)

    def section(self, calls: str, less: str = "") -> str:
        opening = self._calls.section_open
        if less and opening:
            opening = opening.lstrip().removeprefix(less)
        closing = self._until_end(self._calls.section_close).rstrip()
        return f"{self._rules.literal(opening)} {calls} {self._rules.literal(closing)}"

    def perhaps(self) -> str:
        """Text, and calls if the model begins one."""
        first = self._calls.trigger
        if not first:
            return f"({self.all()} | {self._rules.rest('[^{]')})?"
        if self._rules.is_special(first):
            return f"{self._rules.rest()} ({self.all()})?"
        return f"({self._rules.up_to(first)} {self.all(less=first)} | {self._rules.rest()})"

    def call(self, name: str, less: str = "") -> str:
        """A call of one function."""
        written = []
        parts = [*self._calls.parts]
        if less and isinstance(parts[0], str):
            parts[0] = parts[0].lstrip().removeprefix(less)
        if isinstance(parts[-1], str):
            parts[-1] = self._until_end(parts[-1])
        for part in parts:
            match part:
                case Slot.NAME:
                    written.append(self._rules.words(json.dumps(name)[1:-1] if self._calls.keys else name))
                case Slot.ID:
                    written.append(_ID)
                case Slot.INDEX:
                    written.append(_NUMBER)
                case Slot.ARGUMENTS:
                    grammar = ArgumentGrammar(self._rules, self._schemas[name])
                    written.append(grammar.rule(self._calls.arguments))
                case str():
                    written.append(self._rules.literal(part))
        return " ".join(written)

    def _until_end(self, text: str) -> str:
        """A closing text without what only ends the answer."""
        places = [at for end in self._ends if end and (at := text.find(end)) >= 0]
        return text[: min(places, default=len(text))]


def _closed(schema: Any) -> Any:
    """The schema of arguments, which are an object; neither it nor objects in it have other keys than it names, unless
    it says so: small models would go on inventing some."""
    return _without_more({"type": "object", **schema} if isinstance(schema, Mapping) else {"type": "object"})


def _without_more(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_more(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    new = dict(schema)
    for key in _BY_NAME & set(new):
        if isinstance(new[key], Mapping):
            new[key] = {name: _without_more(part) for name, part in new[key].items()}
    for key in _INSIDE & set(new):
        new[key] = _without_more(new[key])
    if isinstance(new.get("properties"), Mapping) and not _OPEN & set(new):
        new["additionalProperties"] = False
    return new
