"""The Jinja that chat templates run in: what transformers gives them, in a sandbox, with limits (meter.py).

Jinja's sandbox keeps a template from Python's internals and from changing what it is given. Here it is also kept from
work without end: values are measured as they are made, and loops look at the clock. Filters and methods that no
template needs and whose work cannot be foreseen are left out.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast

from jinja2 import TemplateError, nodes
from jinja2.environment import Environment
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from markupsafe import soft_str

from .meter import LimitExceeded, current

_MAX_SOURCE = 1 << 18  # characters; the longest published template has 16 thousand
_PLAIN = (
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby",
    "int", "items", "last", "length", "list", "lower", "max", "min", "reverse", "safe", "sort", "string", "title",
    "trim", "unique", "upper", "urlencode", "wordcount",
)  # fmt: skip
_LAZY = ("map", "reject", "rejectattr", "select", "selectattr")
_WIDTHS = ("batch", "indent", "round", "slice", "truncate")  # a number says how much they add to an item or a line
_MAX_WIDTH = 1000
_STR_METHODS = {
    "capitalize", "casefold", "center", "count", "endswith", "find", "format", "format_map", "index", "isalnum",
    "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join",
    "ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust",
    "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
    "zfill",
}  # fmt: skip
_PERCENT_WIDTH = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)")
_BRACE_WIDTH = re.compile(r"\{[^{}]*:[^{}]*(?:\d{4}|\{)")


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates. Compiling and rendering need `meter.current` to be set."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters = {name: _measured(FILTERS[name]) for name in _PLAIN}
        self.filters |= {name: _measured(_with_ticks(FILTERS[name])) for name in _LAZY}
        self.filters |= {name: _measured(_narrow(FILTERS[name])) for name in _WIDTHS}
        for name, own in (("format", _format), ("join", _join), ("replace", _replace), ("sum", _sum)):
            self.filters[name] = _measured(own)
        self.filters |= {"tojson": _measured(_to_json), _EACH: _each, _MADE: _made, _CONCAT: _concat}
        del self.globals["lipsum"]
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda format: datetime.now().strftime(format)

    def concat(self, pieces: Iterable[str]) -> str:  # type: ignore[override]
        """What Jinja joins the parts of its output with."""
        return "".join(_limited(pieces))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, (int, float, bytes)) or (isinstance(obj, str) and attr not in _STR_METHODS):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, B902
        meter, owner = current.get(), getattr(__obj, "__self__", None)
        if isinstance(__obj, LoopContext):  # `loop(items)`, in a loop that is marked as recursive
            args = (meter.each(args[0]), *args[1:])
        elif isinstance(owner, str) and args:
            match __obj.__name__:
                case "join":
                    args = (_limited(args[0], len(owner)),)
                case "replace":
                    _check_replace(owner, *args)
                case "center" | "ljust" | "rjust" | "zfill":
                    meter.reserve(args[0])
        return meter.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = current.get()
        if operator == "%" and isinstance(left, str):
            _check_format(left, right, _PERCENT_WIDTH, "%")
        elif operator == "+":
            meter.reserve(meter.size(left) + meter.size(right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            meter.reserve_bits(left.bit_length() * right)
        elif operator == "*":
            for factor, other in ((left, right), (right, left)):
                if isinstance(factor, int) and not isinstance(other, (int, float)):
                    meter.reserve(meter.size(other) * max(factor, 0))
        return meter.made(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def format(*args: Any, **kwargs: Any) -> str:
            _check_format(value.__self__, (args, kwargs), _BRACE_WIDTH, "{")
            return wrapped(*args, **kwargs)

        return format

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > _MAX_SOURCE:
            raise LimitExceeded(f"it is longer than {_MAX_SOURCE} characters")
        return _Instrument(self).visit(super()._parse(source, name, filename))


# names that no template can spell
_EACH, _MADE, _CONCAT = "<each>", "<made>", "<concat>"


class _Instrument(NodeTransformer):
    """Has loops, and the makers of values that Jinja compiles to plain Python, call the meter."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = self._filter(node.iter, _EACH)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        constant = all(isinstance(item, nodes.Const) for item in node.iter_child_nodes())
        return node if constant or getattr(node, "ctx", "load") != "load" else self._filter(node, _MADE)

    visit_Tuple = visit_Dict = visit_List  # noqa: N815

    def _filter(self, node: nodes.Node, name: str) -> nodes.Filter:
        new = nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)
        return new.set_environment(self._environment)  # type: ignore[return-value]


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; here it only groups."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # a call block, as in transformers, so that variables set inside stay inside
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Any) -> str:
        return caller()


class _Namespace(Namespace):
    """Namespaces can hold each other; written out, that would have no end."""

    def __repr__(self) -> str:
        return "<Namespace>"


Filter = Callable[..., Any]


def _measured(filter: Filter) -> Filter:
    """The filter, with its result measured."""
    return functools.wraps(filter)(lambda *args, **kwargs: current.get().made(filter(*args, **kwargs)))


def _with_ticks(filter: Filter) -> Filter:
    """The filter, with a look at the clock for each item that it takes."""

    @functools.wraps(filter)
    def ticking(context: Any, items: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        return filter(context, _each(items), *args, **kwargs)

    return ticking


def _narrow(filter: Filter) -> Filter:
    """The filter, for numbers of a sensible size."""

    @functools.wraps(filter)
    def narrow(*args: Any, **kwargs: Any) -> Any:
        settings = [*args[1:], *kwargs.values()]
        numbers = [abs(arg) for arg in settings if isinstance(arg, int)]
        width = max(numbers + [len(arg) for arg in settings if isinstance(arg, str)], default=0)
        if width > _MAX_WIDTH:
            raise LimitExceeded(f"it asks for a width of {width}")
        for text in (arg for arg in args if isinstance(arg, str)):
            current.get().reserve(len(text) + (text.count("\n") + 1) * width)
        return filter(*args, **kwargs)

    return narrow


def _each(items: Iterable[Any]) -> Iterable[Any]:
    return current.get().each(items)


def _made(value: Any) -> Any:
    return current.get().made(value)


def _concat(values: Iterable[Any]) -> str:
    """What `a ~ b` is."""
    return current.get().made("".join(_limited(map(str, values))))


def _limited(pieces: Iterable[str], separator: int = 0) -> list[str]:
    """Pieces that are to be joined by a separator of this length, if that is not too much."""
    meter, size, kept = current.get(), 0, []
    for piece in meter.each(pieces):
        size += len(piece) + separator
        meter.reserve(size)
        kept.append(piece)
    return kept


@functools.wraps(FILTERS["join"])
def _join(context: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(context.environment, attribute), value)
    return str(d).join(_limited(map(str, value), len(str(d))))


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    _check_replace(text, old, new)
    return text.replace(old, new, -1 if count is None else count)


def _check_replace(text: str, old: str, new: str, *_: Any) -> None:
    current.get().reserve(len(text) + text.count(old) * len(new))


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    _check_format(value, args or kwargs, _PERCENT_WIDTH, "%")
    return soft_str(value) % (kwargs or args)


@functools.wraps(FILTERS["sum"])
def _sum(environment: Any, items: Iterable[Any], attribute: Any = None, start: float = 0) -> Any:
    """Of numbers; a sum of lists would copy the first ones again and again."""
    read = make_attrgetter(environment, attribute)
    return sum((read(item) + 0 for item in _each(items)), start + 0)


def _check_format(format: str, values: Any, too_wide: re.Pattern[str], mark: str) -> None:
    meter = current.get()
    if too_wide.search(format):
        raise LimitExceeded("it asks for a field that is too wide")
    meter.reserve(len(format) + str(format).count(mark) * (_MAX_WIDTH + meter.size(values)))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter would escape HTML."""
    width = len(indent) if isinstance(indent, str) else indent or 0
    current.get().reserve(0 if width <= 16 else current.get().size(value) * width)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
