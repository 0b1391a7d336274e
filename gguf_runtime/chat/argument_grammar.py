"""Arguments of a call as rules of a grammar, in all the ways that models write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..sampling.constraint import json_text
from .rules import GrammarRules
from .schemas import Schema
from .tool_format import Arguments, Bare, Json, Nested, Python, Tagged

# a character of a text between single quotes, and of one in JSON
_QUOTED = r"[^'\\\x00-\x1f]"
_IN_JSON = r'([^"\\\x00-\x1f]|\\["\\\/bfnrt]|\\u[0-9a-fA-F]{4})'
_MARKS = {"integer": "number"}  # what kinds are called in marks


class ArgumentGrammar:
    """The rules of one function's arguments."""

    def __init__(self, rules: GrammarRules, schema: Mapping[str, Any]) -> None:
        self._rules, self._schema = rules, schema
        self._known: dict[tuple[str, int], str] = {}  # rules by what they are for and the schema

    def rule(self, form: Arguments) -> str:
        """The arguments. Raises GrammarError."""
        rules, schema = self._rules, Schema(self._schema)
        match form:
            case Json():
                return rules.add(self._json(self._schema))
            case Tagged():
                return self._listed(schema, form.separator, lambda key, part: self._tagged(form, key, part))
            case Nested(prefix):
                return self._listed(schema, "", lambda key, part: self._element(prefix, key, part))
            case Bare(quote):
                return self._bare(quote, schema)
            case Python():
                return self._listed(schema, ", ", lambda key, part: f"{rules.words(f'{key}=')} {self._python(part)}")

    def _json(self, schema: Any) -> str:
        return f"%json {json_text(schema)}"

    def _value(self, schema: Schema) -> str:
        """A value as JSON."""
        return self._rules.add(self._json(schema.whole))

    def _python(self, schema: Schema) -> str:
        """A value as JSON, or any text between single quotes."""
        if schema.is_text and schema.texts:
            quoted = [text for word in schema.texts for text in (json.dumps(word), f"'{word}'")]
            return f"({' | '.join(map(json.dumps, quoted))})"
        if not schema.is_text or not schema.length:
            return self._value(schema)
        return f"/'{_QUOTED}{schema.length}'|\"{_IN_JSON}{schema.length}\"/"

    def _listed(self, schema: Schema, separator: str, write: Any) -> str:
        """The properties in their order, of which some may be missing."""
        items = [(write(key, schema.of_key(key)), key in schema.required) for key in schema.properties]
        between = self._rules.literal(separator)
        head = tail = '""'
        for item, is_required in reversed(items):
            first, more = f"{item} {tail}", f"{between} {item} {tail}"
            head = self._rules.add(first if is_required else f"{first} | {head}")
            tail = self._rules.add(more if is_required else f"{more} | {tail}")
        return head

    # texts as they are, and other values as JSON

    def _tagged(self, form: Tagged, key: str, schema: Schema) -> str:
        rules, written = self._rules, []
        kinds = schema.kinds
        if not kinds or "string" in kinds:
            mark = form.marks[0]
            written.append(
                f"{rules.literal(form.key_close.replace('{}', mark))} {self._text(schema, form.value_close)}"
            )
        others = sorted(kinds - {"string"}) if form.marks[0] == "string" else ["other"] * bool(kinds - {"string"})
        if written and not form.marks[0]:
            others = []  # a text may be anything
        for kind in others:
            mark = _MARKS.get(kind, kind) if form.marks[0] == "string" else form.marks[1]
            value = self._value(schema if len(others) == 1 and len(kinds) == 1 else schema.only(kind))
            written.append(
                f"{rules.literal(form.key_close.replace('{}', mark))} {value} {rules.literal(form.value_close)}"
            )
        return f"{rules.literal(form.key_open)} {rules.words(key)} ({' | '.join(written)})"

    def _text(self, schema: Schema, close: str) -> str:
        """A text, and what ends it."""
        if schema.texts is not None:
            return f"({' | '.join(map(self._rules.words, schema.texts))}) {self._rules.literal(close)}"
        return self._rules.up_to(close, schema.pattern)

    # elements by their names

    def _element(self, prefix: str, key: str, schema: Schema) -> str:
        open, close = f"{prefix}<{key}>", f"{prefix}</{key}>"
        kinds = schema.kinds
        if not kinds or "string" in kinds:
            return f"{self._rules.literal(open)} {self._text(schema, close)}"
        return f"{self._rules.literal(open)} {self._inside(prefix, schema)} {self._rules.literal(close)}"

    def _inside(self, prefix: str, schema: Schema) -> str:
        if "object" in schema.kinds:
            return self._shared(
                prefix, schema, lambda: self._listed(schema, "", lambda k, s: self._element(prefix, k, s))
            )
        if "array" in schema.kinds:
            return self._shared(prefix, schema, lambda: f"({self._element(prefix, 'item', schema.items)})*")
        return self._value(schema)

    # keys as they are, and strings between quotes of their own

    def _bare(self, quote: str, schema: Schema) -> str:
        rules, kinds = self._rules, schema.kinds
        if "object" in kinds:
            listed = self._shared(
                quote,
                schema,
                lambda: self._listed(schema, ",", lambda k, s: f"{rules.words(k + ':')} {self._bare(quote, s)}"),
            )
            return f'"{{" {listed} "}}"'
        if "array" in kinds:
            item = self._shared(quote, schema, lambda: self._bare(quote, schema.items))
            return f'"[" ({item} ("," {item})*)? "]"'
        if not kinds or "string" in kinds:
            return f"{rules.literal(quote)} {self._text(schema, quote)}"
        return self._value(schema)

    def _shared(self, what: str, schema: Schema, write: Any) -> str:
        """One rule for a schema, which may contain itself."""
        key = what, schema.identity
        if key not in self._known:
            self._known[key] = name = self._rules.reserve()
            self._rules.define(name, write())
        return self._known[key]
