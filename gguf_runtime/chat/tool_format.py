"""How a model writes thoughts and calls of tools: a description that parser and grammar work from.

Texts are as the template writes them. In reading, white space in and around them may be other than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Slot(Enum):
    """What stands between the texts of a call."""

    NAME = auto()
    ID = auto()
    INDEX = auto()  # of the call, counted by the template
    ARGUMENTS = auto()


@dataclass(frozen=True)
class Json:
    """Arguments are JSON of an object."""


@dataclass(frozen=True)
class Tagged:
    """Arguments are key and value between texts, a string as it is and all else as JSON: what a value is, its schema
    tells, or a mark.

    key_close: between key and value. marks: what stands there for strings only, within key_close, where `{}` is.
    separator: between value_close and the next key_open. cdata: values may be within `<![CDATA[…]]>`.
    """

    key_open: str
    key_close: str
    value_close: str
    separator: str = ""
    marks: tuple[str, str] = ("", "")  # of a string, of another value
    cdata: bool = False


@dataclass(frozen=True)
class Nested:
    """Arguments are elements by their names, `<key>value</key>`; objects in objects, and lists as many `<item>`.

    prefix: what each tag begins with before its `<`.
    """

    prefix: str


@dataclass(frozen=True)
class Bare:
    """JSON with keys as they are and strings between quotes of their own, as in Gemma 4."""

    quote: str


@dataclass(frozen=True)
class Python:
    """Keyword arguments of Python, up to the bracket that closes them."""


Arguments = Json | Tagged | Nested | Bare | Python


@dataclass(frozen=True)
class Keys:
    """A call is one object of JSON: the keys of its parts, and the texts before and after it. name "": the name is
    itself the key of the arguments. id_is_last: the id comes after the arguments."""

    name: str
    arguments: str
    id: str = ""
    id_is_last: bool = False
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Calls:
    """section_open, section_close: around all calls. parts: texts and slots of one call. separator: between calls.
    several: whether there can be more than one. keys: where a call is one object of JSON. id: what an id is made of,
    where the template makes it of name and index. known_only: what begins a call does so only with a tool's name.
    """

    parts: tuple[str | Slot, ...]
    arguments: Arguments = Json()
    section_open: str = ""
    section_close: str = ""
    separator: str = ""
    several: bool = True
    keys: Keys | None = None
    id: str = ""
    known_only: bool = False

    @property
    def begin(self) -> str:
        """The text that a call begins with."""
        if self.keys:
            return self.keys.before
        return self.parts[0] if isinstance(self.parts[0], str) else ""

    @property
    def trigger(self) -> str:
        """What the first of the calls begins with, up to white space; "" where nothing marks them."""
        return next((text.split()[0] for text in (self.section_open, self.begin) if text.strip()), "")

    @property
    def end(self) -> str:
        """The text that a call ends with."""
        if self.keys:
            return self.keys.after
        return self.parts[-1] if isinstance(self.parts[-1], str) else ""

    @property
    def texts(self) -> list[str]:
        """All that the template writes around and in calls."""
        form, inside = self.arguments, []
        match form:
            case Tagged():
                inside = [form.key_open, form.key_close, form.value_close, *form.marks]
            case Nested(text) | Bare(text):
                inside = [text]
        parts = [part for part in self.parts if isinstance(part, str)]
        return [self.section_open, *parts, *inside, self.separator, self.section_close]


@dataclass(frozen=True)
class MessageTurns:
    """An answer is several messages, each with a header that tells what it is, as in gpt-oss.

    start: what a message begins with. message: what ends a header. ends: what ends a message. thought, call: what is
    in the header of a thought, and of a call, of which the group is the name (regular expressions); calls that are not
    told by their headers are in the message, as `calls` has them.
    """

    start: str
    message: str
    ends: tuple[str, ...]
    thought: str
    call: str = ""


@dataclass(frozen=True)
class AnswerFormat:
    """How a model writes answers.

    header: what the template writes before an answer. thoughts: what begins and ends them, in pairs; a beginning may
    be empty, where only the prompt has it. wrappers: texts around content, which are left out. calls: as the template
    writes them, and then in other ways that the model is known to. stop: texts that end an answer.
    shows_calls: whether the template writes calls.
    """

    header: str = ""
    thoughts: tuple[tuple[str, str], ...] = ()
    wrappers: tuple[str, ...] = ()
    calls: tuple[Calls, ...] = ()
    turns: MessageTurns | None = None
    stop: tuple[str, ...] = ()
    shows_calls: bool = True

    @property
    def texts(self) -> list[str]:
        """All that may have markers in it."""
        pairs = [text for pair in self.thoughts for text in pair]
        turns = [self.turns.start, self.turns.message, *self.turns.ends] if self.turns else []
        calls = [text for calls in self.calls for text in calls.texts]
        return [text for text in (*pairs, *self.wrappers, *calls, *turns) if text]
