"""The Jinja that chat templates run in: what transformers gives them, in Jinja's sandbox, with limits (limits.py).

Jinja's sandbox keeps a template from Python's internals and from changing what it is given. Here it is also kept from
work without end. Whatever makes a value has it measured; loops look at the clock; the few operations that can make
much more than they are given, or take long, are asked before what they cost.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from operator import length_hint
from types import GeneratorType
from typing import Any, cast

from jinja2 import TemplateError, nodes
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ..tokenizer import BREAK
from .limits import Growing, LimitExceeded, current
from .marks import unmarked

_MAX_SOURCE, _MAX_TOKENS = 1 << 19, 1 << 16  # characters, and words; the longest published template has 16 thousand
_MAX_FIELD = 1000  # characters that %d and the like add to what they write
_WIDE_FIELD = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)|\{[^{}]*:[^{}]*(?:\d{4}|\{)")
_NO_METHODS = {
    "center", "encode", "expandtabs", "format_map", "ljust", "maketrans", "rjust", "striptags", "translate", "zfill"
}  # fmt: skip


def _format_cost(text: Any, *args: Any, **kwargs: Any) -> int:
    if _WIDE_FIELD.search(text := str(text)):
        raise LimitExceeded("it asks for a field that is too wide")
    return len(text) + (text.count("{") + text.count("%")) * (_MAX_FIELD + current.get().size([args, kwargs]))


def _replace_cost(text: Any, old: Any, new: Any, count: Any = None) -> int:
    return len(str(text)) + str(text).count(str(old)) * len(str(new))


def _join_cost(items: Any, d: Any = "", attribute: Any = None) -> int:
    return current.get().size(items) + length_hint(items) * len(str(d))


def _indent_cost(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    return len(text) + len(text.splitlines()) * (len(width) if isinstance(width, str) else width)


def _slow_cost(value: Any, *args: Any, **kwargs: Any) -> int:
    """Of filters that take the time of 50 others, or write what they are given beside each word."""
    return current.get().size(value) * (50 + current.get().size([args, kwargs]))


def _filling_cost(n: int, filler: object) -> int:
    return n * (2 + current.get().size(filler))


def _search_cost(text: Any, chars: Any = None, *_: Any) -> int:
    """Of what compares each of a text's characters with as many."""
    return len(str(text)) * len(str(chars)) // 1000


#: What filters, and methods of texts, cost: the characters that they make, or that take as long. By their names and
#: with their own parameters.
_COSTS: dict[str, Callable[..., int]] = {
    "batch": lambda value, linecount, fill_with=None: _filling_cost(linecount, fill_with),
    "center": lambda value, width=80: width,
    "format": _format_cost,
    "indent": _indent_cost,
    "join": _join_cost,
    "replace": _replace_cost,
    "round": lambda value, precision=0, method="common": 10_000 * abs(precision),
    "slice": lambda value, slices, fill_with=None: _filling_cost(slices, fill_with),
    "tojson": lambda value, ensure_ascii=False, indent=None, *_, **__: (
        current.get().size(value) * (1 + (len(indent) if isinstance(indent, str) else indent or 0) // 16)
    ),
    "trim": _search_cost,
    **dict.fromkeys(["pprint", "striptags", "urlize", "wordwrap", "xmlattr"], _slow_cost),
    ".join": lambda separator, items: _join_cost(items, separator),
    ".replace": _replace_cost,
    **dict.fromkeys([".strip", ".lstrip", ".rstrip"], _search_cost),
    **dict.fromkeys([".rfind", ".rindex", ".rpartition", ".rsplit"], _search_cost),
}


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is asked before for its cost, and measured after."""
    cost, n_passed = _COSTS.get(name), hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        budget = current.get()
        if cost:
            budget.reserve(cost(*args[n_passed:], **kwargs))
        result = function(*args, **kwargs)
        return budget.iterator(result) if isinstance(result, GeneratorType) else budget.made(result)

    return limited


@functools.wraps(FILTERS["sum"])
def _sum(environment: Environment, items: Iterable[Any], attribute: Any = None, start: float = 0) -> Any:
    """Of numbers; a sum of lists would copy the first ones again and again."""
    read = make_attrgetter(environment, attribute)
    return sum((read(item) + 0 for item in current.get().each(items)), start + 0)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter would escape HTML. What `map` and its like make is written as a list."""
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_listed
    )
    return text.replace(json.dumps(BREAK)[1:-1], BREAK) if ensure_ascii else text


def _listed(value: object) -> list[Any]:
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates. Compiling and rendering need `limits.current` to be set."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, mark: Callable[[Any], Any]) -> None:
        """mark: puts marks into what a filter has read in messages."""
        extensions = [_Generation, loopcontrols]
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=extensions, undefined=_Undefined, finalize=_finalized,
            optimized=False,  # nothing is computed while it compiles
        )  # fmt: skip
        own = {"sum": _sum, "tojson": _to_json, "from_json": lambda text: mark(json.loads(unmarked(text)))}
        self.filters = {name: _limited(name, filter) for name, filter in (FILTERS | own).items()} | _HOOKS
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise_exception}
        self.globals["strftime_now"] = lambda format: datetime.now().strftime(format)

    def concat(self, texts: Iterable[str]) -> str:  # type: ignore[override]
        """What Jinja joins the parts of its output with."""
        budget, parts = current.get(), list(texts)
        budget.reserve(sum(map(len, parts)))
        return budget.made("".join(parts))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, (int, float)) or (isinstance(obj, str) and attr in _NO_METHODS):
            return False
        if isinstance(obj, Growing) and attr in ("append", "pop"):
            return True
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        limited = _limited("format", lambda text, *args, **kwargs: wrapped(*args, **kwargs))
        return functools.partial(limited, value.__self__)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, B902
        budget, owner = current.get(), getattr(__obj, "__self__", None)
        if isinstance(__obj, LoopContext):  # `loop(items)`, in a loop that is marked as recursive
            args = (budget.each(args[0]), *args[1:])
        elif isinstance(owner, str) and (cost := _COSTS.get(f".{__obj.__name__}")):
            budget.reserve(cost(owner, *args))
        return budget.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = current.get()
        if operator == "%" and isinstance(left, str):
            budget.reserve(_format_cost(left, right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            budget.reserve(left.bit_length() * abs(right))
        elif operator == "*":
            for factor, other in ((left, right), (right, left)):
                if isinstance(factor, int) and not isinstance(other, (int, float)):
                    budget.reserve(budget.size(other) * factor)
        return budget.made(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > _MAX_SOURCE:
            raise LimitExceeded(f"it is longer than {_MAX_SOURCE} characters")
        return _Hooked(self).visit(super()._parse(source, name, filename))


#: What loops and the makers of values call, as filters, by names that no template can spell.
_HOOKS: dict[str, Callable[..., Any]] = {
    "<each>": lambda items: current.get().each(items),
    "<made>": lambda value: current.get().made(value),
    "<list>": lambda items: current.get().made(Growing(items)),
}


class _Hooked(NodeTransformer):
    """Has loops, and the makers of values that Jinja compiles to plain Python, call the hooks."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = self._filter(node.iter, "<each>")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter(node, "<made>") if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter(self._filter(nodes.Tuple(node.nodes, "load", lineno=node.lineno), "<made>"), "join")

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter(node, "<list>")

    def visit_Dict(self, node: nodes.Dict | nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        is_target = getattr(node, "ctx", "load") != "load"
        return node if is_target else self._filter(node, "<made>")

    visit_Tuple = visit_Dict  # noqa: N815

    def _filter(self, node: nodes.Node, name: str) -> nodes.Expr:
        new = nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)
        return cast(nodes.Expr, new.set_environment(self._environment))


class _Undefined(Undefined):
    def __str__(self) -> str:
        if current.get().strict and self._undefined_name in ("name", "tool_call_id"):
            self._fail_with_undefined_error()
        return ""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; here it only groups. Counts tokens, too."""

    tags = {"generation"}

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        for n, token in enumerate(stream):
            if n > _MAX_TOKENS:
                raise LimitExceeded(f"it has more than {_MAX_TOKENS} words")
            yield token

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # a call block, as in transformers, so that variables set inside stay inside
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Any) -> str:
        return caller()


class _Namespace(Namespace):
    """Takes no names that begin with an underscore, and is short as text: namespaces can hold each other."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: B902
        """Every keyword is a variable, `self` too."""
        Namespace.__init__(args[0])
        for name, value in dict(*args[1:], **kwargs).items():
            args[0][name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace does not take the name {name!r}")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _finalized(value: Any) -> str:
    """A part of the output as text."""
    return value if isinstance(value, str) else current.get().made(str(value))


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
