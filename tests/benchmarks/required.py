"""Calls that a real model is made to write, over HTTP: `tool_choice: "required"`, ten schemas; all must be valid.

    python tests/benchmarks/required.py MODEL [--requests 200] [--at-once 8]

Prints a line for each schema, and what was wrong with an answer. Exit code 1 if one was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.serving import Server  # noqa: E402

CHAT = "/v1/chat/completions"
MOST = 600  # tokens of an answer
WORD = {"type": "string", "maxLength": 24}
POINT = {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x", "y"]}


def schema(*optional: str, **properties: Any) -> dict[str, Any]:
    """An object of these properties, all needed but some."""
    needed = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


#: What is asked → the function's name and schema.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Is it raining in Ghent?": ("get_weather", schema("unit", city=WORD, unit={"enum": ["C", "F"]})),
    "Add 17 and 25.": ("add", schema(a={"type": "integer"}, b={"type": "integer"})),
    "Turn the light in the kitchen off.": ("switch", schema(room=WORD, on={"type": "boolean"})),
    "Remind me of milk, bread and eggs.": (
        "remind", schema(items={"type": "array", "items": WORD, "minItems": 1, "maxItems": 4}),
    ),
    "Draw a line from the origin to (3, 4).": ("draw", schema(start=POINT, end=POINT)),
    "Call Ann on 2026-11-29 at noon.": (
        "call", schema(date={"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}, who=WORD),
    ),
    "Look up order A-1234.": ("order", schema(id={"type": "string", "pattern": "^[A-Z]-[0-9]{4}$"})),
    "Rate this film: it was good.": (
        "rate", schema("why", stars={"type": "integer", "minimum": 1, "maximum": 5}, why={**WORD, "type": "string"}),
    ),
    "Save my name or nothing.": ("save", schema(name={"anyOf": [WORD, {"type": "null"}]})),
    "What time is it?": ("now", schema()),
}  # fmt: skip


def wrong(server: Server, seed: int) -> tuple[str, str]:
    """The function that a request is for, and what is wrong with its answer."""
    question, (name, wanted) = list(CASES.items())[seed % len(CASES)]
    other = {"type": "function", "function": {"name": "other_tool", "parameters": schema(text=WORD)}}
    tool = {"type": "function", "function": {"name": name, "description": question, "parameters": wanted}}
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}], "tools": [tool, other], "tool_choice": "required",
        "max_tokens": MOST, "seed": seed, "temperature": 0.8, "parallel_tool_calls": seed % 20 < 10,
    }  # fmt: skip
    answer = server.post(CHAT, **body)
    if answer.status != 200:
        return name, str(answer.body)
    choice = answer.body["choices"][0]
    if choice["finish_reason"] != "tool_calls":
        return name, f"ended by {choice['finish_reason']}: {json.dumps(choice['message'])[:200]}"
    for call in choice["message"]["tool_calls"]:
        function = call["function"]
        schemas = {name: wanted, "other_tool": other["function"]["parameters"]}
        try:
            jsonschema.validate(json.loads(function["arguments"]), schemas[function["name"]])
        except (KeyError, ValueError, jsonschema.ValidationError) as error:
            return name, f"{function}: {error}"
    return name, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args.model, "-c", 2048, folder=Path(folder))
        try:
            with ThreadPoolExecutor(args.at_once) as threads:
                found = list(threads.map(lambda seed: wrong(server, seed), range(args.requests)))
        finally:
            server.close()
    for name in dict.fromkeys(name for name, _ in found):
        told = [error for other, error in found if other == name]
        print(f"{name}: {told.count('')} of {len(told)} valid")
        print("".join(f"  {error}\n" for error in told if error), end="")
    sys.exit(any(error for _, error in found))


if __name__ == "__main__":
    main()
