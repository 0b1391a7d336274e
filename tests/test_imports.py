"""What imports what: the parts of the package stand on each other, and no file reaches itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("gguf_runtime", "kernels")
    for path in (ROOT / folder).rglob("*.py")
}


def imported(module: str, *, lazily: bool) -> Iterator[str]:
    """The modules that one imports; lazily: in functions too, but never what only type checkers see."""
    path = FILES[module]
    here = module if path.name == "__init__.py" else module.rpartition(".")[0]
    if here.partition(".")[0] == "kernels":  # as it is once installed
        here = f"gguf_runtime.{here}"
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom):
            start = here.rsplit(".", node.level - 1)[0] if node.level > 1 else here
            base = ".".join(filter(None, [start if node.level else "", node.module])).replace(
                "gguf_runtime.kernels", "kernels"
            )
            for name in node.names:
                found = f"{base}.{name.name}" if f"{base}.{name.name}" in FILES else base
                if found in FILES and found != module:
                    yield found
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif lazily or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += ast.iter_child_nodes(node)


def part(module: str) -> str:
    """A folder of the package, or a file beside these."""
    names = module.split(".")
    return names[0] if names[0] == "kernels" else ".".join(names[:2])


def test_no_file_imports_itself_in_a_circle() -> None:
    graph = {module: set(imported(module, lazily=False)) for module in FILES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_the_parts_stand_on_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for module in FILES:
        if module != "gguf_runtime":  # which only names what is for users
            below = {part(found) for found in imported(module, lazily=True)} - {part(module), "gguf_runtime"}
            graph.setdefault(part(module), set()).update(below)
    order = list(TopologicalSorter(graph).static_order())
    way = [f"gguf_runtime.{name}" for name in ("operations", "graph", "backends", "engine", "llm", "server", "cli")]
    assert sorted(way, key=order.index) == way
    assert graph["kernels"] == set()
