"""Formats that comparing renderings does not tell: of answers in several messages, and of calls that templates do not
show."""

from __future__ import annotations

from .tool_format import AnswerFormat, Calls, Json, Keys, MessageTurns, Python, Slot, Tagged

_GPT_OSS = AnswerFormat(
    header="<|start|>assistant",
    calls=(
        Calls(
            (" to=functions.", Slot.NAME, "<|channel|>commentary json<|message|>", Slot.ARGUMENTS, "<|call|>"),
            several=False,
        ),
    ),
    turns=MessageTurns("<|start|>assistant", "<|message|>", ("<|end|>",), "analysis", r"to=(?:functions\.)?([^\s<]+)"),
)
_MUSE = AnswerFormat(
    header="<|start|>assistant",
    calls=(
        Calls(
            ('\n<atem:invoke name="', Slot.NAME, '">\n', Slot.ARGUMENTS, "</atem:invoke>\n"),
            Tagged('<atem:parameter name="', '">', "</atem:parameter>\n"),
            "<atem:function_calls>",
            "</atem:function_calls>",
        ),
    ),
    turns=MessageTurns("<|start|>assistant", "<|message|>", ("<|eom|>", "<|eot|>"), r"to=self"),
)
_JSON = ('{"name": "', Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}")
_KEYS = Keys("name", "arguments")
HERMES = Calls(
    ("<tool_call>\n" + _JSON[0], *_JSON[1:4], "}\n</tool_call>"),
    separator="\n",
    keys=Keys("name", "arguments", before="<tool_call>\n", after="\n</tool_call>"),
)
_GRANITE = Calls(_JSON, Json(), "<|tool_call|>[", "]", ", ", keys=_KEYS)
_LFM = Calls((Slot.NAME, "(", Slot.ARGUMENTS, ")"), Python(), "<|tool_call_start|>[", "]<|tool_call_end|>", ", ")

#: Answers of several messages, by a text in the template.
MESSAGES = {"<|channel|>analysis": _GPT_OSS, "<atem:function_calls>": _MUSE}
#: Calls, by a text in a template that shows none.
CALLS = {
    "<|tool_call|>": _GRANITE,
    "<tool_call>": HERMES,
    "<|tool_list_start|>": _LFM,
    "List of tools: [": _LFM,
}
#: Other ways of calling that a model is known to have, by a text in its template.
VARIANTS = {"<|python_tag|>": Calls((Slot.NAME, ".call(", Slot.ARGUMENTS, ")"), Python(), known_only=True)}
#: Texts in templates that models may write before calls, and mean nothing.
WRAPPERS = ("<|python_tag|>",)
#: Texts that end an answer and are no tokens.
STOPS = ("</assistant>",)
