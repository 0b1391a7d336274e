"""Ollama's chat templates, which are Go's text/template, as Jinja.

A template either goes through .Messages, or is written for one exchange of .System, .Prompt and .Response and is
repeated for each; the last one ends before the answer. What Go can do and chat templates do not is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_ACTION = re.compile(r'\{\{(-(?=\s))?((?:"(?:\\.|[^"\\])*"|`[^`]*`|(?!\s-\}\}|\}\}).)*)(\s-)?\}\}', re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<variable>\$\w*)"""
    r"""|(?P<field>\.\w+)|(?P<dot>\.)|(?P<word>\w+)|(?P<sign>:=|[=|(),]))""",
)

#: What a template is given, and where it is in Jinja.
_ROOT = {
    "Messages": "messages",
    "System": "System",
    "Prompt": "Prompt",
    "Response": "Response",
    "Suffix": "''",
    "Tools": "tools",
    "Think": "(enable_thinking or false)",
    "IsThinkSet": "(enable_thinking is defined)",
    "ThinkLevel": "(reasoning_effort or '')",
}
_FUNCTIONS: dict[str, Callable[..., str]] = {
    "eq": lambda a, *others: "(" + " or ".join(f"{a} == {b}" for b in others) + ")",
    "ne": lambda a, b: f"({a} != {b})",
    "lt": lambda a, b: f"({a} < {b})",
    "le": lambda a, b: f"({a} <= {b})",
    "gt": lambda a, b: f"({a} > {b})",
    "ge": lambda a, b: f"({a} >= {b})",
    "and": lambda *all: f"({' and '.join(all)})",
    "or": lambda *all: f"({' or '.join(all)})",
    "not": lambda a: f"(not {a})",
    "len": lambda a: f"({a} | length)",
    "index": lambda a, *keys: a + "".join(f"[{key}]" for key in keys),
    "slice": lambda a, start="", end="": f"{a}[{start}:{end}]",
    "json": lambda a: f"({a} | tojson)",
    "print": lambda *all: f"({' ~ '.join(all)})",
    "currentDate": lambda: "strftime_now('%Y-%m-%d')",
}
_WORDS = {"true": "true", "false": "false", "nil": "none"}

_SYSTEM = (
    "{% set System = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\\n\\n') %}"
)
_EXCHANGES = (
    "{% set x = namespace(system='', prompt='', response='') %}"
    "{% for m in messages %}"
    "{% if (m.role == 'system' and (x.prompt or x.response)) or (m.role == 'user' and x.response) %}"
    "{{ exchange(x.system, x.prompt, x.response) }}"
    "{% set x.system = '' %}{% set x.prompt = '' %}{% set x.response = '' %}"
    "{% endif %}"
    "{% if m.role == 'system' %}{% set x.system = m.content %}"
    "{% elif m.role == 'user' %}{% set x.prompt = m.content %}"
    "{% elif m.role == 'assistant' %}{% set x.response = m.content %}{% endif %}"
    "{% endfor %}"
    "{{ question(x.system, x.prompt, x.response) }}"
)


class GoTemplateError(ValueError):
    """A template that is no Go template, or does what chat templates do not."""


def to_jinja(source: str) -> str:
    """A chat template of Ollama's as a Jinja template of Hugging Face's variables. Raises GoTemplateError."""
    variables = "{% set v = namespace() %}"
    if re.search(r"\.Messages\b", source):
        return f"{variables}{_SYSTEM}{{% set Prompt = '' %}}{{% set Response = '' %}}{_Body(source).jinja()}"
    if not re.search(r"\.Response\b", source):
        source += "{{ .Response }}"
    arguments = "(System, Prompt, Response)"
    exchange = f"{{% macro exchange{arguments} %}}{_Body(source).jinja()}{{% endmacro %}}"
    question = f"{{% macro question{arguments} %}}{_Body(source, cut=True).jinja()}{{% endmacro %}}"
    return f"{variables}{exchange}{question}{_EXCHANGES}"


class _Body:
    """A template's text and actions. cut: leave out what comes after the response."""

    def __init__(self, source: str, cut: bool = False) -> None:
        self._source, self._cut, self._is_over = source, cut, False
        self._open: list[tuple[str, str]] = []  # of blocks: what ends them, and the dot outside

    def jinja(self) -> str:
        self._dot = ""  # empty: what the template is given
        parts = [part for text, action in self._pieces() for part in (self._text(text), self._act(action))]
        if self._open:
            raise GoTemplateError("a block of the template has no end")
        return "".join(parts)

    def _pieces(self) -> Iterator[tuple[str, str]]:
        """Text, and the action that follows it, without the white space that `-` takes away."""
        at, trim = 0, False
        for match in _ACTION.finditer(self._source):
            text = self._source[at : match.start()]
            text = text.lstrip() if trim else text
            yield text.rstrip() if match[1] else text, match[2].strip()
            at, trim = match.end(), bool(match[3])
        text = self._source[at:]
        if "{{" in text:
            raise GoTemplateError("the template has {{ without }}")
        yield text.lstrip() if trim else text, ""

    def _text(self, text: str) -> str:
        return f"{{{{ {text!r} }}}}" if text and not self._is_over else ""

    def _act(self, action: str) -> str:
        if not action or action.startswith("/*"):
            return ""
        word, _, rest = action.partition(" ")
        match word:
            case "if" | "with" | "range":
                return self._begin(word, rest)
            case "else":
                return self._otherwise(rest.strip())
            case "end":
                if not self._open:
                    raise GoTemplateError("the template has an end without a beginning")
                end, self._dot = self._open.pop()
                return end
            case "break" | "continue":
                return f"{{% {word} %}}"
            case "define" | "template" | "block":
                raise GoTemplateError(f"{word} is not supported in a chat template")
        names, value = self._assigned(action)
        if names:
            return "" if self._is_over else f"{{% set {names[0]} = {value} %}}"
        shown = "" if self._is_over else f"{{{{ {value} }}}}"
        self._is_over |= self._cut and value == "Response"
        return shown

    def _begin(self, word: str, rest: str) -> str:
        names, value = self._assigned(rest)
        outside, inside = self._dot, f"d{len(self._open)}"
        if word == "range":
            self._open.append(("{% endfor %}", outside))
            self._dot = inside
            sets = [f"{{% set {names[-1]} = {inside} %}}"] if names else []
            if len(names) == 2:
                key = f"({value} | list)[loop.index0] if {value} is mapping else loop.index0"
                sets.insert(0, f"{{% set {names[0]} = {key} %}}")
            return f"{{% for {inside} in ({value}.values() if {value} is mapping else {value} or []) %}}{''.join(sets)}"
        self._open.append(("{% endif %}", outside))
        before = f"{{% set {names[0]} = {value} %}}" if names else ""
        if word == "with":
            self._dot = inside
            return f"{before}{{% if {value} %}}{{% set {inside} = {value} %}}"
        return f"{before}{{% if {value} %}}"

    def _otherwise(self, rest: str) -> str:
        if not self._open:
            raise GoTemplateError("the template has an else without an if")
        self._dot = self._open[-1][1]
        if not rest:
            return "{% else %}"
        word, _, condition = rest.partition(" ")
        if word != "if":
            raise GoTemplateError(f"else {word} is not supported in a chat template")
        return f"{{% elif {self._assigned(condition)[1]} %}}"

    def _assigned(self, text: str) -> tuple[list[str], str]:
        """`$a, $b := value`: the names, if any, and the value, both in Jinja."""
        match = re.match(r"(\$\w+)(?:\s*,\s*(\$\w+))?\s*:?=(?!=)", text)
        names = [f"v.go_{name[1:]}" for name in match.groups() if name] if match else []
        expression = _Expression(text[match.end() :] if match else text, self._dot)
        return names, expression.whole()


class _Expression:
    """What an action computes, in Jinja; dot: what `.` is."""

    def __init__(self, text: str, dot: str) -> None:
        self._dot, self._text = dot, text
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if not match:
                raise GoTemplateError(f"{text[at:].strip()!r} in the template is not understood")
            self._tokens.append((str(match.lastgroup), match[match.lastgroup or 0]))
            at = match.end()

    def whole(self) -> str:
        value = self._pipeline()
        if self._tokens:
            raise GoTemplateError(f"{self._text.strip()!r} in the template is not understood")
        return value

    def _pipeline(self) -> str:
        value = self._command(())
        while self._tokens[:1] == [("sign", "|")]:
            self._tokens.pop(0)
            value = self._command((value,))
        return value

    def _command(self, piped: tuple[str, ...]) -> str:
        if self._tokens and self._tokens[0][0] == "word" and self._tokens[0][1] not in _WORDS:
            name = self._tokens.pop(0)[1]
            arguments = [*self._operands(), *piped]
            if name not in _FUNCTIONS:
                raise GoTemplateError(f"the function {name} is not supported in a chat template")
            try:
                return _FUNCTIONS[name](*arguments)
            except TypeError:
                raise GoTemplateError(f"{name} does not take {len(arguments)} arguments") from None
        operands = list(self._operands())
        if len(operands) != 1 or piped:
            raise GoTemplateError(f"{self._text.strip()!r} in the template is not understood")
        return operands[0]

    def _operands(self) -> Iterator[str]:
        while self._tokens and self._tokens[0] not in (("sign", "|"), ("sign", ")")):
            value = self._operand(*self._tokens.pop(0))
            while self._tokens and self._tokens[0][0] == "field" and value:
                value += f".{_snake(self._tokens.pop(0)[1][1:])}"
            yield value

    def _operand(self, kind: str, text: str) -> str:
        match kind:
            case "text":
                return repr(text[1:-1] if text[0] == "`" else _unquoted(text[1:-1]))
            case "number":
                return text
            case "variable" if text != "$":
                return f"v.go_{text[1:]}"
            case "variable":
                return self._field(self._tokens.pop(0)[1][1:] if self._tokens else "", "")
            case "field":
                return self._field(text[1:], self._dot)
            case "dot" if self._dot:
                return self._dot
            case "word" if text in _WORDS:
                return _WORDS[text]
        if (kind, text) == ("sign", "("):
            value = self._pipeline()
            if self._tokens[:1] == [("sign", ")")]:
                self._tokens.pop(0)
                return value
        raise GoTemplateError(f"{self._text.strip()!r} in the template is not understood")

    def _field(self, name: str, dot: str) -> str:
        if dot:
            return f"{dot}.{_snake(name)}"
        if name not in _ROOT:
            raise GoTemplateError(f"a chat template is given no .{name}")
        return _ROOT[name]


def _snake(name: str) -> str:
    """ToolCalls → tool_calls."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _unquoted(text: str) -> str:
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[1]), text)
