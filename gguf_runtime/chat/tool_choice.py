"""Tools that clients offer, and what they say of their use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Tool = Mapping[str, Any]


class ToolChoice(NamedTuple):
    """tools: the functions that may be called, by name, as OpenAI describes them; None: nothing is a call. must: one
    has to be called."""

    tools: dict[str, Tool] | None
    must: bool

    @property
    def schemas(self) -> dict[str, Any] | None:
        """The schemas of their arguments, by name."""
        if self.tools is None:
            return None
        return {name: tool.get("parameters") or {"type": "object"} for name, tool in self.tools.items()}

    @property
    def strict(self) -> bool:
        """Whether calls are held to their schemas, even where there need be none."""
        return any(tool.get("strict") is True for tool in (self.tools or {}).values())


def choose(tools: Sequence[Tool], tool_choice: str | Mapping[str, Any]) -> ToolChoice:
    """What may be called. Raises ValueError for tools without a name, and for a choice that there is not."""
    functions = {}
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            raise ValueError(f"a tool is to be a function with a name, and not {tool!r:.100}")
        functions[name] = function
    if isinstance(tool_choice, Mapping):
        return _chosen(functions, tool_choice)
    if tool_choice not in ("auto", "none", "required"):
        raise ValueError(f"tool_choice is auto, none, required or a function, and not {tool_choice!r}")
    if tool_choice == "required" and not functions:
        raise ValueError("tool_choice is required, and there are no tools")
    return ToolChoice(functions if functions and tool_choice != "none" else None, tool_choice == "required")


def _chosen(functions: dict[str, Tool], choice: Mapping[str, Any]) -> ToolChoice:
    """What an object of OpenAI's chooses."""
    if choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        tools = allowed.get("tools", ()) if isinstance(allowed, Mapping) else ()
        return choose([{"function": _known(functions, tool)} for tool in tools], allowed.get("mode", "auto"))
    function = _known(functions, choice)
    return ToolChoice({function["name"]: function}, must=True)


def _known(functions: dict[str, Tool], choice: Any) -> Tool:
    named = choice.get("function", choice) if isinstance(choice, Mapping) else {}
    name = named.get("name") if isinstance(named, Mapping) else None
    if name not in functions:
        raise ValueError(f"tool_choice names {name!r}, and tools has only {', '.join(functions) or 'nothing'}")
    return functions[name]
