"""Calls of tools: what a template wrote of them is read as the same calls, however it comes in pieces.

The truth is the template: it writes the calls, and they have to come back. tool_templates.py has one for each way of
writing calls; published ones are in ../shared. Tests of statements of wire.md, section 9, have their numbers.
"""

import json
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_runtime.chat.answer import Answer, CallArguments, CallBegin, CallEnd, Content, Thought
from gguf_runtime.chat.parser import AnswerParser
from gguf_runtime.chat.template import ChatTemplate
from gguf_runtime.chat.tool_choice import choose
from gguf_runtime.chat.tool_format import Bare, Json, Nested, Python, Tagged
from tests.paths import SHARED, needs
from tests.tool_templates import PLAIN, TEMPLATES

#: llama.cpp's own folder, models/templates, has 70.
PUBLISHED = Path(os.environ.get("GGRUN_TEST_TEMPLATES", SHARED / "conformance" / "templates"))
TEXT, TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
PROPERTIES = {
    "text": TEXT, "n": {"type": "integer"}, "x": {"type": "number"}, "yes": {"type": "boolean"}, "list": TEXTS,
    "object": {"type": "object", "properties": {"k": TEXT, "m": {"type": "array", "items": {"type": "integer"}}}},
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
}  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {name: {**schema, "description": "A value."} for name, schema in PROPERTIES.items()},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": SCHEMA}}
    for name in ("get_weather", "run-code.v2")
]
IDS = ("call00001", "call00002")
SCHEMAS = {tool["function"]["name"]: SCHEMA for tool in TOOLS}
MARKERS = '<tool_call> </tool_call> [CALL] <|end|> </think> </value> </parameter> ``` </function> {"name": 1} >>>all'
ARGUMENTS = {
    "text": {"text": "Rome"},
    "none": {},
    "all types": {"text": "a", "n": -5, "x": 2.5, "yes": True, "list": ["a", "b c"], "object": {"k": "v", "m": [1, 2]}},
    "false": {"yes": False, "text": "x"},
    "empty": {"text": "", "list": [], "object": {}},
    "quotes": {"text": 'say "hi", it\'s'},
    "line breaks": {"text": "a\nb\n\nc\n"},
    "white space": {"text": "\n  a "},
    "markers": {"text": MARKERS},
    "looks like json": {"text": '{"a": [1, "b"]}', "maybe": "true"},
    "characters": {"text": "naïve 日本 \U0001f600 \\ \t"},
    "null": {"maybe": None, "text": "null"},
    "numbers": {"n": 2**53, "x": -1.5e-9, "text": "3"},
    "code": {"text": "def f(x):\n    return {'a': [x]}\n"},
}
#: What does not come back. Python's: the template writes texts as they are, and a backslash may be an escape. Nested:
#: it writes nothing for a list or object that is empty, or for a text; the schema tells.
LOST = {"python": {"characters"}}


@cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate(TEMPLATES.get(name, PLAIN), {"bos_token": "<s>", "eos_token": "</s>"})


@cache
def published(name: str) -> ChatTemplate:
    source = (PUBLISHED / f"{name}.jinja").read_text("utf-8")
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})


def call(name, arguments, id="call00001"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def written(template, message):
    """What a template writes of an answer, after the text that the prompt has."""
    user = {"role": "user", "content": "A question"}
    text = str(template.converse([user, {"role": "assistant", **message}], tools=TOOLS, add_generation_prompt=False))
    return text[text.rindex("A question") :].partition(template.answer_format.header)[2]


def events(template, pieces, prompt="", tools=SCHEMAS, **options):
    parser = AnswerParser(template.answer_format, tools, prompt=prompt, new_id=lambda: "new", **options)
    return [event for piece in pieces for event in parser.push(piece)] + parser.flush()


def read(template, pieces, prompt="", **options):
    return Answer(events(template, pieces, prompt, **options)).message


def calls(message):
    functions = [call["function"] for call in message.get("tool_calls", ())]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


def cut(text, places):
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in zip(places, places[1:], strict=False)]


def test_9_01_what_differs_is_not_cut_within_a_marker():
    """Text and calls begin alike, and so do a call's name and what is around it."""
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|A|>{% if m.tool_calls %}{% for c in m.tool_calls %}"
        "<|say_call|><f name={{ c.function.name }}>{{ c.function.arguments | tojson }}</f><|say_end|>{% endfor %}"
        "{% else %}<|say_text|>{{ m.content }}<|say_end|>{% endif %}{% else %}<|{{ m.role }}|>{{ m.content }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|A|>{% endif %}"
    )
    chat = ChatTemplate(source, {})
    (form, *_) = chat.answer_format.calls
    markers = [text for text in (form.section_open, *form.parts, form.section_close) if isinstance(text, str)]
    assert "".join(markers).startswith("<|say_call|><f name=")
    text = written(chat, {"content": "Hi <|say_"}).removesuffix("<|say_end|>")
    assert read(chat, [text]) == read(chat, list(text)) == {"role": "assistant", "content": "Hi <|say_"}
    text = written(chat, {"content": "", "tool_calls": [call("get_weather", {"text": "qzuserq"})]})
    message = read(chat, [text])
    assert read(chat, list(text)) == message and calls(message) == [("get_weather", {"text": "qzuserq"})]


#: Template → what its arguments are, whether calls are objects of JSON, whether markers belong to each call.
DERIVED = {
    "object": (Json, True, True), "object in lines": (Json, True, False), "header": (Json, False, True),
    "header, id first": (Json, False, False), "function tag": (Json, False, True), "tagged": (Tagged, False, True),
    "tagged, attributes": (Tagged, False, False), "nested": (Nested, False, False), "bare": (Bare, False, True),
    "python": (Python, False, False),
}  # fmt: skip


@pytest.mark.parametrize("name", DERIVED)
def test_9_04_to_9_07_kinds_of_calls(name):
    form = template(name).answer_format.calls[0]
    assert (type(form.arguments), bool(form.keys), not form.section_open) == DERIVED[name]
    if form.keys:
        assert (form.keys.name, form.keys.arguments) == ("name", "arguments")  # 9.5


@pytest.mark.parametrize("kind", ARGUMENTS)
@pytest.mark.parametrize("name", [*TEMPLATES, "plain"])
def test_9_04_to_9_07_calls_come_back(name, kind):
    chat = template(name)
    two = [call("run-code.v2", {"text": "first"}), call("get_weather", ARGUMENTS[kind], "call00002")]
    for made in (two[1:], two):
        if len(made) > 1 and not (chat.answer_format.calls[0].several or name == "object, no marker"):
            continue
        text = written(chat, {"content": "", "tool_calls": made})
        message = read(chat, [text])
        assert read(chat, list(text)) == message
        if kind not in LOST.get(name, ()):
            assert calls(message) == [(c["function"]["name"], c["function"]["arguments"]) for c in made]


VALUES = st.recursive(
    st.text() | st.integers(-(2**53), 2**53) | st.booleans() | st.sampled_from([0.5, -1e-9, 12.25]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text("kmz", min_size=1), values, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["object", "object, id last", "header", "header, counted", "messages", "bare"])
@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.text("abc_", min_size=1, max_size=4), VALUES, max_size=3), st.lists(st.integers(0), max_size=6)
)
def test_any_arguments_come_back_however_they_are_cut(name, arguments, places):
    if name == "bare" and "<|q|>" in json.dumps(arguments):
        return
    text = written(template(name), {"content": "", "tool_calls": [call("get_weather", arguments)]})
    message = read(template(name), cut(text, places))
    assert calls(message) == [("get_weather", arguments)] and message == read(template(name), [text])


PIECES = st.sampled_from(
    [
        *(
            "\n",
            " ",
            "a",
            "\\",
            "text",
            "get_weather",
            '"',
            '"name"',
            "arguments",
            ":",
            ",",
            "{",
            "}",
            "[",
            "]",
            "(",
            ")",
        ),
        *(
            "<tool_call>",
            "</tool_call>",
            "<think>",
            "</think>",
            "<call>",
            "<function=",
            "<parameter=",
            "</parameter>",
            ">",
        ),
        *("[CALL]", "[ARGS]", "<|call|>", "functions.", ":0", "<|args|>", "<|c|>", "='", "<|section|>", "!<c>", "!</"),
        *("<|start|>assistant", "<|message|>", "<|end|>", "<|channel|>analysis", " to=functions.get_weather"),
    ]
)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=25, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join), st.lists(st.integers(0), max_size=6))
def test_whatever_a_model_writes_is_read_without_an_error(name, text, places):
    whole = events(template(name), [text])
    assert Answer(whole).message == read(template(name), cut(text, places)) == read(template(name), list(text))
    for event in whole:
        assert not isinstance(event, Thought | Content | CallArguments) or event.text
    begun = [event.index for event in whole if isinstance(event, CallBegin)]
    assert begun == list(range(len(begun)))
    for index in (event.index for event in whole if isinstance(event, CallEnd)):
        assert index in begun


@pytest.mark.parametrize("name", TEMPLATES)
def test_9_02_and_9_03_text_and_thoughts(name):
    chat = template(name)
    text = written(chat, {"content": "Let me see.", "reasoning_content": "Hm, 1 < 2."})
    message = read(chat, [text.removesuffix("<|return|>").partition("<|end|>\n")[0]])
    assert message["content"].removesuffix("<|end|>") == "Let me see."
    if chat.answer_format.thoughts and "reasoning_content" in TEMPLATES[name]:
        assert message["reasoning_content"] == "Hm, 1 < 2."


def test_text_before_calls_streams_and_has_no_part_of_a_marker():
    text = 'I look.\n\n<tool_call>\n{"name": "get_weather", "arguments": {"text": "Rome"}}\n</tool_call>'
    found = events(template("object"), list(text))
    said = [event.text for event in found if isinstance(event, Content)]
    assert "".join(said) == "I look." and len(said) > 4
    arguments = [event.text for event in found if isinstance(event, CallArguments)]
    assert "".join(arguments) == '{"text": "Rome"}' and len(arguments) > 5


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nnothing",
        "<tool_call>",
        '<tool_call>\n{"name": 1}\n</tool_call>',
        '<tool_call>\n{"arguments": {}}\n</tool_call> and more',
        "a <tool_call b",
        "1 < 2 <tool",
        "<tool_call>\n[]",
    ],
)
def test_what_is_no_call_is_content(text):
    assert read(template("object"), [text]) == {"role": "assistant", "content": text}


def test_a_call_after_one_that_is_none():
    text = '<tool_call>\n<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'
    assert calls(read(template("object"), [text])) == [("get_weather", {})]


def test_a_call_that_is_cut_off_has_no_end():
    found = events(template("object"), ['<tool_call>\n{"name": "get_weather", "arguments": {"text": "Ro'])
    assert found == [CallBegin(0, "new", "get_weather"), CallArguments(0, '{"text": "Ro')]


def test_arguments_that_are_no_json_are_passed_on():
    text = '<tool_call>\n{"name": "get_weather", "arguments": {"text": Rome}}\n</tool_call>\nThere.'
    message = read(template("object"), [text])
    assert message == read(template("object"), list(text)) and message["content"] == "There."
    assert "Rome" not in message["tool_calls"][0]["function"]["arguments"][:8]


@pytest.mark.parametrize(
    "text",
    [
        '{"arguments": {"text": "Rome"}, "name": "get_weather"}',
        '{"type": "function", "function": {"name": "get_weather", "arguments": {"text": "Rome"}}}',
        '{"name": "get_weather", "arguments": "{\\"text\\": \\"Rome\\"}"}',
        '{ "name" :"get_weather","parameters":{"text":"Rome"} }',
    ],
)
def test_9_10_forms_that_models_slip_into(text):
    assert calls(read(template("object"), [f"<tool_call>{text}</tool_call>"])) == [("get_weather", {"text": "Rome"})]
    assert calls(read(template("object, no marker"), [text])) == [("get_weather", {"text": "Rome"})]


def test_json_that_is_no_call_is_an_answer():
    for text in ('{"name": "Ann", "parameters": {}}', '{"city": "Rome"}', '{"name": "get_weather"}', "{}"):
        assert read(template("object, no marker"), list(text)) == {"role": "assistant", "content": text}


def test_a_marker_that_a_model_leaves_out():
    text = "<function=get_weather>\n<parameter=text>\nRome\n</parameter>\n</function>"
    assert calls(read(template("tagged"), list(text))) == [("get_weather", {"text": "Rome"})]
    other = text.replace("get_weather", "unknown")
    assert read(template("tagged"), list(other))["content"] == other


def test_a_call_within_a_thought_that_does_not_end():
    text = '<think>I call.\n<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'
    message = read(template("object"), list(text))
    assert message["reasoning_content"] == "I call." and calls(message) == [("get_weather", {})]


def test_values_by_schema():
    values = {"text": "3", "n": "3", "yes": "True", "maybe": "null", "object": "{'k': 'v'}", "other": "[1]"}
    text = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    message = read(template("tagged"), [f"<call>\n<function=get_weather>\n{text}</function>\n</call>"])
    wanted = {"text": "3", "n": 3, "yes": True, "maybe": None, "object": {"k": "v"}, "other": [1]}
    assert calls(message) == [("get_weather", wanted)]


def test_ids_are_kept_or_made():
    made = [call("get_weather", {}, "abc123XYZ"), call("get_weather", {}, "abc123XYW")]
    ids = {}
    for name in ("object", "header, id", "header, id first", "object, id last", "header, counted"):
        text = written(template(name), {"content": "", "tool_calls": made})
        ids[name] = [call["id"] for call in read(template(name), list(text))["tool_calls"]]
    assert ids.pop("object") == ["new", "new"]
    assert ids.pop("header, counted") == ["functions.get_weather:0", "functions.get_weather:1"]
    assert all(found == ["abc123XYZ", "abc123XYW"] for found in ids.values())


def test_only_one_call_where_no_more_are_wanted():
    made = [call("get_weather", {}), call("get_weather", {}, "call00002")]
    text = written(template("object"), {"content": "", "tool_calls": made})
    parser = AnswerParser(template("object").answer_format, SCHEMAS, several=False)
    assert len(Answer([*parser.push(text), *parser.flush()]).message["tool_calls"]) == 1 and parser.done


def test_nothing_is_a_call_where_there_are_no_tools():
    text = written(template("object"), {"content": "", "tool_calls": [call("get_weather", {})]}).removesuffix(
        "<|end|>\n"
    )
    assert read(template("object"), [text], tools=None) == {"role": "assistant", "content": text}


def test_9_08_what_the_prompt_has_begun():
    chat = template("object")
    prompt = str(chat.converse([{"role": "user", "content": "Q"}], tools=TOOLS))
    assert read(chat, ["Hm.</think>Hi"], f"{prompt}<think>\n") == {
        "role": "assistant", "content": "Hi", "reasoning_content": "Hm."
    }  # fmt: skip
    assert read(chat, [" more"], f"{prompt}<think>\n</think>\n\nOnce")["content"] == " more"
    for name in ("object", "header", "messages"):
        results = [{"role": "tool", "tool_call_id": "call00001", "content": "sunny"}]
        answer = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {})]}
        messages = [{"role": "user", "content": "Q"}, answer, *results]
        after = str(template(name).converse(messages, tools=TOOLS, add_generation_prompt=False))
        text = written(template(name), {"content": "", "tool_calls": [call("run-code.v2", {})]})
        assert isinstance(events(template(name), [text], after)[0], CallBegin)
        assert events(template(name), [text], after)[0].index == 0


def test_messages_with_headers():
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I call.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"text": "Rome"}'
    )
    message = read(template("messages"), list(text))
    assert calls(message) == [("get_weather", {"text": "Rome"})]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "I call.")
    assert read(template("messages"), list("no header"))["content"] == "no header"


def test_a_template_that_knows_no_tools_is_told_of_them():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"text": "Rome"})]},
        {"role": "tool", "tool_call_id": "call00001", "content": "sunny"},
    ]
    text = str(template("plain").converse(messages, tools=TOOLS))
    assert text.startswith("<|system|>Be brief.\n\n") and '"name": "get_weather"' in text.partition("<|user|>")[0]
    assert (
        '<|assistant|><tool_call>\n{"name": "get_weather", "arguments": {"text": "Rome"}}\n</tool_call><|end|>' in text
    )
    assert "<|user|><tool_response>\nsunny\n</tool_response><|end|>" in text
    assert messages[3]["role"] == "tool"


def test_calls_one_by_one_where_a_template_takes_no_more():
    made = [call("get_weather", {"text": "Rome"}, "a"), call("run-code.v2", {"text": "Oslo"}, "b")]
    results = [
        {"role": "tool", "tool_call_id": id, "content": content} for id, content in (("b", "rain"), ("a", "sun"))
    ]
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "", "tool_calls": made}, *results]
    text = str(template("messages").converse(messages, tools=TOOLS)).partition("Q<|end|>")[2]
    assert [text.index(word) for word in ("Rome", "sun", "Oslo", "rain")] == sorted(
        text.index(word) for word in ("Rome", "sun", "Oslo", "rain")
    )
    assert text.count("to=functions.") == 2 and messages[1]["tool_calls"] == made


HOSTILE = [
    "{% for m in messages %}{% for i in range(40) %}{{ m.content * 9 }}{% endfor %}{% endfor %}",
    "{% for m in messages %}{{ m.tool_calls | tojson }}{{ '{' * 5000 }}{{ m.content }}{{ '{1:' * 5000 }}{% endfor %}",
    "{{ raise_exception('no') }}",
    "{% for m in messages %}{{ m.content }}{{ '<' * 9999 }}{% endfor %}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_a_template_that_means_harm_gets_a_format_all_the_same(source):
    form = ChatTemplate(source, {}).answer_format
    parser = AnswerParser(form, SCHEMAS)
    assert Answer([*parser.push("Hi"), *parser.flush()]).message["content"] == "Hi"


@pytest.mark.parametrize(
    ("choice", "names", "must"),
    [
        ("auto", list(SCHEMAS), False),
        ("none", None, False),
        ("required", list(SCHEMAS), True),
        ({"type": "function", "function": {"name": "get_weather"}}, ["get_weather"], True),
        ({"type": "function", "name": "get_weather"}, ["get_weather"], True),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"name": "run-code.v2"}]}, ["run-code.v2"], True),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOLS[0]]}}, ["get_weather"], False),
    ],
)
def test_choices(choice, names, must):
    found = choose(TOOLS, choice)
    assert (found.tools and list(found.tools)) == names and found.must is must


@pytest.mark.parametrize("choice", ["any", {"type": "function", "function": {"name": "x"}}, {"type": "?"}, {}])
def test_choices_that_there_are_not(choice):
    with pytest.raises(ValueError, match="tool_choice"):
        choose(TOOLS, choice)
    with pytest.raises(ValueError, match="a function with a name"):
        choose([{"type": "function"}], "auto")


#: Published templates that write only the first of several calls, or refuse them.
_SINGLE = ("GigaChat", "gpt-oss", "meta-llama")
#: Published templates that lose something: backslashes are not escaped; null is left out; what comes before </think> is
#: cut off.
_LOSING = {"LFM2.5-8B-A1B": {"characters"}, "MiniMax-M3": {"null"}, "llama-cpp-rwkv-world": {"markers"}}


@needs(PUBLISHED)
@pytest.mark.parametrize("name", sorted(path.stem for path in PUBLISHED.glob("*.jinja")))
def test_calls_of_published_templates_come_back(name):
    chat, kinds = published(name), list(ARGUMENTS)
    for pair in zip(kinds[::2], kinds[1::2], strict=True):
        made = [call(name, ARGUMENTS[kind], id) for name, kind, id in zip(SCHEMAS, pair, IDS, strict=True)]
        for some in [made[:1], made[1:]] if any(single in name for single in _SINGLE) else [made]:
            text = written(chat, {"content": "", "tool_calls": some})
            message = read(chat, [text])
            assert read(chat, list(text)) == message
            if not _LOSING.get(name, set()) & set(pair):
                assert calls(message) == [(c["function"]["name"], c["function"]["arguments"]) for c in some], pair
