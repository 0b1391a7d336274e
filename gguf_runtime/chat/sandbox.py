"""The Jinja that chat templates run in: what transformers gives them, in a sandbox, with limits (meter.py).

Jinja's sandbox keeps a template from Python's internals and from changing what it is given. Here it is also kept from
work without end: values are measured as they are made, and loops look at the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast

from jinja2 import TemplateError, nodes
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .filters import BRACE_WIDTH, CONCAT, EACH, FILTERS, MADE, PERCENT_WIDTH, check_format, check_replace, limited
from .meter import LimitExceeded, current

_MAX_SOURCE = 1 << 17  # characters; the longest published template has 16 thousand
_STR_METHODS = {
    "capitalize", "casefold", "center", "count", "endswith", "find", "format", "format_map", "index", "isalnum",
    "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join",
    "ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust",
    "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
    "zfill",
}  # fmt: skip


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates. Compiling and rendering need `meter.current` to be set."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters = FILTERS
        del self.globals["lipsum"]
        self.globals |= {"dict": _Dict(), "namespace": _Namespace}
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda format: datetime.now().strftime(format)

    def concat(self, pieces: Iterable[str]) -> str:  # type: ignore[override]
        """What Jinja joins the parts of its output with."""
        return current.get().made("".join(limited(pieces)))

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
                    args = (limited(args[0], len(owner)),)
                case "replace":
                    check_replace(owner, *args)
                case "center" | "ljust" | "rjust" | "zfill":
                    meter.reserve(args[0])
        return meter.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = current.get()
        if operator == "%" and isinstance(left, str):
            check_format(left, right, PERCENT_WIDTH, "%")
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
            check_format(value.__self__, (args, kwargs), BRACE_WIDTH, "{")
            return wrapped(*args, **kwargs)

        return format

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > _MAX_SOURCE:
            raise LimitExceeded(f"it is longer than {_MAX_SOURCE} characters")
        return _Instrument(self).visit(super()._parse(source, name, filename))


class _Instrument(NodeTransformer):
    """Has loops, and the makers of values that Jinja compiles to plain Python, call the meter."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = self._filter(node.iter, EACH)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter(node, MADE) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter(nodes.List(node.nodes, lineno=node.lineno), CONCAT)

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        constant = all(isinstance(item, nodes.Const) for item in node.iter_child_nodes())
        return node if constant or getattr(node, "ctx", "load") != "load" else self._filter(node, MADE)

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
    """Takes no names that begin with an underscore, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: B902
        """Every keyword is a variable, `self` too."""
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        """Namespaces can hold each other; written out, that would have no end."""
        return "<Namespace>"


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace does not take the name {name!r}")


class _Dict:
    """`dict` without the class behind it, as in transformers."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
