"""How a model writes answers: what its chat template makes of conversations that differ in one thing, compared.

The words in these conversations occur nowhere else, so what is between them is the template's. What was found is then
tried: it has to read the same calls in what the template wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from os.path import commonprefix
from typing import Any

from . import families
from .answer import Answer
from .derive_calls import ARGUMENTS, IDS, NAMES, NotFound, find_calls, shows
from .markers import MARKER, cut_back, cut_on
from .parser import AnswerParser
from .reasoning import TAGS
from .told_tools import Shown
from .tool_format import AnswerFormat, Calls, Slot, Tagged

Message = dict[str, Any]
Render = Callable[[Sequence[Message], bool], str]
Showing = Callable[..., str]

_USER, _SAID, _THOUGHT, _RESULT = "qzuserq", "qzsaidq", "qzthoughtq", "qzresultq"
_MAX_TEXT = 20_000  # characters of what comes after a user's message
_MAX_BEGUN = 100  # characters of what comes before or around an answer
_SIGNS = re.compile(r"[<>|\[\]]")
#: A tool for templates to show; one, since some take long over each.
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": NAMES[0],
            "description": "A tool.",
            "parameters": {"type": "object", "properties": {"qzkeyaq": {"type": "string", "description": "A value."}}},
        },
    }
]


def derive(render: Render, texts: Collection[str]) -> AnswerFormat:
    """The format of a template's answers.

    render: the text of messages, without or with the beginning of an answer; "" where the template refuses them.
    texts: those in the template.
    """
    in_template = "\0".join(texts)
    if several := [form for text, form in families.MESSAGES.items() if text in in_template]:
        return several[0]

    def shown(*messages: Message, begin: bool = False) -> str:
        """What comes after the user's message."""
        text = render([{"role": "user", "content": _USER}, *messages], begin).rpartition(_USER)[2]
        return text if len(text) < _MAX_TEXT else ""

    form = _compared(shown, in_template)
    if not form.calls:
        known = [calls for text, calls in families.CALLS.items() if text in in_template]
        form = replace(form, calls=(*known, families.HERMES)[:1], shows_calls=False)
    variants = [calls for text, calls in families.VARIANTS.items() if text in in_template]
    return replace(
        form,
        calls=(*form.calls, *variants),
        wrappers=(*form.wrappers, *(text for text in families.WRAPPERS if text in in_template)),
        stop=tuple(text for text in families.STOPS if text in in_template),
    )


def _compared(shown: Showing, in_template: str) -> AnswerFormat:
    """What the renderings tell."""
    begun, said = shown(begin=True), shown(_said())
    one, two = (_calling(shown, n) for n in (1, 2))
    thoughts = _thoughts(shown, begun, said, in_template)
    start = _start(begun, [text for text in (said, one) if text], thoughts)
    end = _common_end(said, one)
    form = AnswerFormat(_header(begun, said, start), thoughts, _wrappers(said, start, end, thoughts))
    if not one:
        return form
    try:
        first = _skipped(one, start, form)
        of_two = two[_skipped(two, start, form) : len(two) - end]
        calls, back = find_calls(one[first : len(one) - end], of_two, one[:first])
    except (NotFound, IndexError, ValueError, RecursionError):
        return form
    if "<![CDATA[" in in_template and isinstance(calls.arguments, Tagged):
        calls = replace(calls, arguments=replace(calls.arguments, cdata=True))
    if back:  # the prompt has what calls begin with, and so has content
        start = first - back
        form = AnswerFormat(_header(begun, said, start), thoughts, _wrappers(said, start, end, thoughts))
    found = replace(form, calls=(calls, *_variants(calls)))
    written = [one[start : len(one) - end]] + [two[start : len(two) - end]] * calls.several
    return found if all(_reads(found, text, n) for n, text in enumerate(written, 1)) else form


def shown(render: Render) -> Shown:
    """What a template shows that writes no calls."""
    user = {"role": "user", "content": _USER}
    tools = NAMES[0] in render([user], True)
    return Shown(
        tools, calls=False, results=_RESULT in render([user, _said(), {"role": "tool", "content": _RESULT}], True)
    )


def _said() -> Message:
    return {"role": "assistant", "content": _SAID}


def _calling(shown: Showing, n: int) -> str:
    """What n calls are written as; "" where they are not."""
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, name, arguments in zip(IDS[:n], NAMES, ARGUMENTS, strict=False)
    ]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    text = shown(message)
    if not shows(text, n):  # some want the results too
        results = [
            {"role": "tool", "tool_call_id": i, "name": k, "content": _RESULT}
            for i, k in zip(IDS[:n], NAMES, strict=False)
        ]
        text = shown(message, *results).partition(_RESULT)[0]
    return text if shows(text, n) else ""


def _thoughts(shown: Showing, begun: str, said: str, in_template: str) -> tuple[tuple[str, str], ...]:
    """What begins and ends thoughts."""
    thinking = {"reasoning_content": _THOUGHT, "thinking": _THOUGHT}
    call = {"id": IDS[0], "type": "function", "function": {"name": NAMES[0], "arguments": ARGUMENTS[0]}}
    result = {"role": "tool", "tool_call_id": IDS[0], "name": NAMES[0], "content": _RESULT}
    text = shown({"role": "assistant", "content": "", "tool_calls": [call], **thinking}, result)
    if _THOUGHT not in text:
        text = shown({**_said(), **thinking})
    if _THOUGHT in text:
        before, _, after = text.partition(_THOUGHT)
        before, after = before.rstrip(), after.lstrip()
        close = next((close for close in TAGS.values() if after.startswith(close)), "")
        found = MARKER.match(after)
        if close := close or (found[0] if found else ""):
            return ((_opening(before, begun, said), close),)
    known = tuple(pair for pair in TAGS.items() if pair[1] in in_template or pair[0] in begun)
    return known or tuple(TAGS.items())


def _opening(before: str, begun: str, said: str) -> str:
    """What begins thoughts; before: all that is there before a thought."""
    if known := next((open for open in TAGS if before.endswith(open)), ""):
        return known
    same = cut_back(before, len(commonprefix([before, said])))
    markers = [match for match in MARKER.finditer(before) if match.end() == len(before) and match.start() >= same]
    if markers:
        return markers[-1][0]
    return begun[same:].strip() if begun.startswith(before[:same]) else ""


def _start(begun: str, texts: Sequence[str], thoughts: Sequence[tuple[str, str]]) -> int:
    """Where answers begin that are written differently."""
    if begun and len(begun) - len(commonprefix([begun, *texts])) < _MAX_BEGUN:
        texts = [begun, *texts]
    prefix = commonprefix(texts)
    prefix = prefix[: min((cut_back(text, len(prefix)) for text in texts), default=0)]
    for open, close in thoughts:
        for marker in filter(None, (close, open)):
            if prefix.rstrip().endswith(marker):
                prefix = prefix[: prefix.rindex(marker)]
    return len(prefix)


def _common_end(said: str, one: str) -> int:
    """How many characters end both what was said and a call."""
    if not one or _SAID not in said:
        return 0
    ending = said.rpartition(_SAID)[2]
    n = len(commonprefix([ending[::-1], one[::-1]]))
    return len(one) - cut_on(one, len(one) - n)


def _header(begun: str, said: str, start: int) -> str:
    """The end of what comes before an answer, from a marker on."""
    before = (said or begun)[:start]
    found = [match.start() for match in MARKER.finditer(before)]
    return before[found[-1] :] if found and len(before) - found[-1] < _MAX_BEGUN else before.lstrip()


def _wrappers(said: str, start: int, end: int, thoughts: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The texts around content, which are markers."""
    if _SAID not in said:
        return ()
    before, _, after = said[start : len(said) - end].partition(_SAID)
    for marker in (marker for pair in thoughts for marker in pair if marker):
        before = before.replace(marker, "")
    before, after = before.strip(), after.strip()
    if not _SIGNS.search(before) or not end or len(before) > _MAX_BEGUN or len(after) > _MAX_BEGUN:
        return ()
    return tuple(filter(None, (before, after)))


def _skipped(text: str, start: int, form: AnswerFormat) -> int:
    """Where calls begin, after thoughts and content without words."""
    markers = [marker for pair in form.thoughts for marker in pair if marker] + list(form.wrappers)
    while True:
        rest = text[start:].lstrip()
        marker = next((marker for marker in markers if rest.startswith(marker)), "")
        if not marker:
            return len(text) - len(rest) if start < len(text) else start
        start = len(text) - len(rest) + len(marker)


def _variants(calls: Calls) -> list[Calls]:
    """Calls without what comes before the marker that has the name, which some models leave out."""
    first = calls.parts[0]
    if calls.keys or not isinstance(first, str) or calls.parts[1] is not Slot.NAME:
        return []
    at = first.rfind("<")
    if at < 0 or not (calls.section_open + first[:at]).strip():
        return []
    return [replace(calls, parts=(first[at:], *calls.parts[1:]), section_open="", known_only=True)]


def _reads(form: AnswerFormat, text: str, n: int) -> bool:
    """Whether n calls are read in what the template wrote."""
    parser = AnswerParser(form, dict.fromkeys(NAMES, {}))
    message = Answer([*parser.push(text), *parser.flush()]).message
    functions = [call["function"] for call in message.get("tool_calls", ())]
    try:
        calls = [(function["name"], json.loads(function["arguments"])) for function in functions]
    except ValueError:
        return False
    return calls == list(zip(NAMES, ARGUMENTS, strict=True))[:n] and not message["content"]
