"""The Jinja that chat templates run in: what transformers gives them, in Jinja's sandbox, with limits (limits.py).

Jinja's sandbox keeps a template from Python's internals and from changing what it is given. Here it is also kept from
work without end: values are measured as they are made, and loops look at the clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast

from jinja2 import TemplateError, nodes
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .filters import FILTERS, foresee, guarded, pieces
from .limits import Growing, LimitExceeded, current, fixed
from .marks import unmarked

_MAX_SOURCE = 1 << 19  # characters; the longest published template has 16 thousand
_REFUSED = {"encode", "expandtabs", "maketrans", "striptags", "translate"}  # methods of texts, which no template needs

#: What loops and the makers of values call, as filters, by names that no template can spell.
_HOOKS = {
    "<each>": lambda items: current.get().each(items),
    "<Slice>": lambda value: current.get().made(value),
    "<List>": lambda items: current.get().made(Growing(items)),
    "<Tuple>": lambda items: current.get().made(tuple(map(fixed, items))),
    "<Dict>": lambda items: current.get().made({key: fixed(value) for key, value in items.items()}),
    "<Concat>": lambda texts: current.get().made("".join(pieces(texts))),
}


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates. Compiling and rendering need `limits.current` to be set."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, mark: Callable[[Any], Any]) -> None:
        """mark: puts marks into what a filter has read in messages."""
        extensions = [_Generation, loopcontrols]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, undefined=_Undefined)
        from_json = guarded("from_json", lambda text: mark(json.loads(unmarked(text))))
        self.filters = FILTERS | _HOOKS | {"from_json": from_json}
        del self.globals["lipsum"]
        self.globals |= {"dict": _Dict(), "namespace": _Namespace}
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda format: datetime.now().strftime(format)

    def concat(self, texts: Iterable[str]) -> str:  # type: ignore[override]
        """What Jinja joins the parts of its output with."""
        return current.get().made("".join(pieces(texts)))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, (int, float, bytes)) or (isinstance(obj, str) and attr in _REFUSED):
            return False
        if isinstance(obj, Growing) and attr in ("append", "pop"):
            return True
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def format(*args: Any, **kwargs: Any) -> str:
            foresee("format", value.__self__, [args, kwargs])
            return wrapped(*args, **kwargs)

        return format

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, B902
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, LoopContext):  # `loop(items)`, in a loop that is marked as recursive
            args = (current.get().each(args[0]), *args[1:])
        elif isinstance(owner, str):
            if __obj.__name__ == "join" and args:
                args = (pieces(args[0], len(owner)),)
            foresee(__obj.__name__, owner, [*args, *kwargs.values()])
        return current.get().made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = current.get()
        if operator == "%" and isinstance(left, str):
            foresee("format", left, [right])
        elif operator == "+":
            budget.reserve(budget.size(left) + budget.size(right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            budget.reserve_bits(left.bit_length() * right)
        elif operator == "*":
            for factor, other in ((left, right), (right, left)):
                if isinstance(factor, int) and not isinstance(other, (int, float)):
                    budget.reserve(budget.size(other) * max(factor, 0))
        return budget.made(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > _MAX_SOURCE:
            raise LimitExceeded(f"it is longer than {_MAX_SOURCE} characters")
        return _Hooked(self).visit(super()._parse(source, name, filename))


class _Hooked(NodeTransformer):
    """Has loops, and the makers of values that Jinja compiles to plain Python, call the hooks."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = cast(nodes.Expr, self._filter(node.iter, "<each>"))
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter(node, "<Slice>") if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter(nodes.List(node.nodes, lineno=node.lineno), "<Concat>")

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        is_target = getattr(node, "ctx", "load") != "load"
        return node if is_target else self._filter(node, f"<{type(node).__name__}>")

    visit_Tuple = visit_Dict = visit_List  # noqa: N815

    def _filter(self, node: nodes.Node, name: str) -> nodes.Node:
        new = nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)
        return new.set_environment(self._environment)


class _Undefined(Undefined):
    def __str__(self) -> str:
        if current.get().strict and self._undefined_name in ("name", "tool_call_id"):
            self._fail_with_undefined_error()
        return ""


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
        return {key: fixed(value) for key, value in dict(*args, **kwargs).items()}

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, fixed(value))


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
