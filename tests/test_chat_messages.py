"""Messages as clients send them, against what transformers renders of the form that each template takes.

recorded/chat_calls.json has the beginnings of SHA-256 sums of transformers' renderings: of a call and its result in
each form of which a template shows all, and of content in parts (joined, where the template does not take parts).
"""

import hashlib
import json
from pathlib import Path

import pytest

from gguf_runtime.chat.template import ChatError, ChatTemplate
from tests.paths import SHARED, needs

TEMPLATES = SHARED / "conformance" / "templates"
EXPECTED = json.loads((TEMPLATES / "expected.json").read_text("utf-8")) if TEMPLATES.exists() else {}
RECORDED = json.loads(Path(__file__).with_name("recorded").joinpath("chat_calls.json").read_text("utf-8"))
USER = {"role": "user", "content": "Hello"}
ARGUMENTS = {"city": "Rome"}
PARTS = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]


def template(name: str) -> ChatTemplate:
    special_tokens = {key: EXPECTED[key] for key in ("bos_token", "eos_token")}
    return ChatTemplate((TEMPLATES / f"{name}.jinja").read_text("utf-8"), special_tokens)


def call(arguments=ARGUMENTS, id="call00001", **more):
    function = {"name": "get_weather", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": id, "type": "function", "function": function}], **more}


def result(**more):
    return {"role": "tool", "content": "sunny", **more}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@needs(TEMPLATES)
@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}], ids=["null", "none", "empty"])
@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS)], ids=["object", "string"])
@pytest.mark.parametrize("name", [name for name, recorded in RECORDED.items() if recorded["calls"]])
def test_calls_are_rendered_in_the_form_that_a_template_takes(name, arguments, content):
    messages = [USER, call(arguments, **content), result(tool_call_id="call00001")]
    assert digest(template(name).render(messages, tools=EXPECTED["tools"])) in RECORDED[name]["calls"]


@needs(TEMPLATES)
@pytest.mark.parametrize("name", [name for name, recorded in RECORDED.items() if recorded["calls"]])
def test_results_by_name_or_by_id(name):
    for keys in ({"name": "get_weather"}, {"tool_call_id": "call00001", "name": "get_weather"}):
        messages = [USER, call(content=""), result(**keys)]
        assert digest(template(name).render(messages, tools=EXPECTED["tools"])) in RECORDED[name]["calls"]


@needs(TEMPLATES)
@pytest.mark.parametrize("name", ["Kimi-K2-Thinking", "unsloth-Apriel-1.5", "Apriel-1.6-15b-Thinker-fixed"])
def test_calls_that_transformers_does_not_render_or_not_well(name):
    messages = [USER, call('{"city": "Rome"}', content=None), result(tool_call_id="call00001")]
    text = template(name).render(messages, tools=EXPECTED["tools"])
    assert '{"city": "Rome"}' in text and "sunny" in text and "None" not in text.partition("Hello")[2]
    if name == "Kimi-K2-Thinking":  # what it appends to a list comes back
        assert "## Return of functions.get_weather:0\nsunny" in text


@needs(TEMPLATES)
@pytest.mark.parametrize("name", [name for name, recorded in RECORDED.items() if recorded["parts"]])
def test_content_in_parts(name):
    assert digest(template(name).render([{"role": "user", "content": PARTS}])) == RECORDED[name]["parts"]


@needs(TEMPLATES)
@pytest.mark.parametrize("name", RECORDED)
def test_a_developer_is_a_system_where_the_template_knows_none(name):
    developer, user = {"role": "developer", "content": "You are terse."}, {"role": "user", "content": "Hi there"}
    expected = EXPECTED["expected"][name]["system"]
    if isinstance(expected, str) and "Gemma" not in name and "DeepSeek-V4" not in name:
        assert template(name).render([developer, user]) == expected


@needs(TEMPLATES)
def test_ids_of_nine_characters_where_a_template_wants_these():
    nemo = template("mistralai-Mistral-Nemo-Instruct-2407")
    two = call(id="call_0123456789", content=None)["tool_calls"] + call(id="call_9876543210")["tool_calls"]
    results = [result(tool_call_id="call_9876543210"), result(tool_call_id="call_0123456789")]
    text = nemo.render([USER, {"role": "assistant", "content": None, "tool_calls": two}, *results])
    assert '"id": "call00001"}, {' in text and '"id": "call00002"}]' in text
    assert text.index('"call_id": "call00002"') < text.index('"call_id": "call00001"')


STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)


def test_a_system_message_that_is_refused_goes_with_the_users_first():
    system, user, answer = ({"role": r, "content": c} for r, c in (("system", "S"), ("user", "U"), ("assistant", "A")))
    strict = ChatTemplate(STRICT, {})
    assert strict.render([system, user, answer, user]) == "[user]S\nU[assistant]A[user]U"
    assert strict.render([system]) == "[user]S"
    with pytest.raises(ChatError, match="turns"):
        strict.render([user, user])
    assert ChatTemplate("{% for m in messages %}{{ m.role }}{% endfor %}", {}).render([system, user]) == "systemuser"


def test_a_template_that_takes_only_parts_gets_parts():
    source = "{% for m in messages %}{% for part in m.content %}{{ part.text }}|{% endfor %}{% endfor %}"
    assert ChatTemplate(source, {}).render([USER, {"role": "user", "content": PARTS}]) == "Hello|Hel|lo|"


def test_a_part_that_is_no_text():
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(ChatError, match="'image_url', and only text"):
        ChatTemplate("{{ messages }}", {}).render([{"role": "user", "content": [image]}])


def test_what_is_null_is_left_out():
    source = (
        "{% for m in messages %}{{ m.content }}"
        "{% if m.tool_calls is defined %}{{ m.tool_calls[0] }}{% endif %}{% endfor %}"
    )
    answer = {"role": "assistant", "content": "A", "tool_calls": None, "refusal": None}
    assert ChatTemplate(source, {}).render([USER, answer, {"role": "user", "content": None}]) == "HelloA"


@pytest.mark.parametrize(
    "messages",
    [
        [1], ["x"], [{"role": "assistant", "tool_calls": 1}], [{"role": "x", "content": [1]}],
        [{"role": "x", "content": 1}], [{"role": "x", "content": b"x"}], [{"role": "x", "content": {"type": "text"}}],
    ],
)
def test_messages_that_are_none(messages):
    with pytest.raises(ChatError):
        ChatTemplate("{{ messages[0].role + 1 }}", {}).render(messages)


def test_arguments_that_are_no_json_stay_as_they_are():
    source = (
        "{% for m in messages %}{% for c in m.tool_calls %}"
        "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    assert ChatTemplate(source, {}).render([USER, call('{"city"')]) == 'get_weather"{\\"city\\""'


def text(role: str, content: object, **more: object) -> dict:
    return {"role": role, "content": content, **more}


ALL = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
FIRST = (
    "{% if messages[0].role == 'system' %}[system]{{ messages[0].content }}{% endif %}"
    "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    "source, shown",
    [
        (ALL, "[system]A[system]B[user]C[user]D[assistant]E[assistant]F[system]G[user]H[system]I"),
        (FIRST, "[system]A\nB[user]C[user]D[assistant]E[assistant]F[user]G\nH[user]I"),
    ],
)
def test_no_system_message_is_lost_where_a_template_takes_one_at_the_beginning(source, shown):
    roles = ("system", "system", "user", "user", "assistant", "assistant", "system", "user", "system")
    messages = [text(role, content) for role, content in zip(roles, "ABCDEFGHI", strict=True)]
    assert ChatTemplate(source, {}).render(messages) == shown


def test_messages_in_which_something_is_null_or_empty():
    source = (
        "{% for m in messages %}{{ m.content + ';' }}"
        "{% if m.tool_calls is defined %}{{ raise_exception('calls') }}{% endif %}{% endfor %}"
    )
    messages = [text("user", None), {"role": "user"}, text("user", []), text("assistant", "A", tool_calls=[])]
    assert ChatTemplate(source, {}).render(messages) == ";;;A;"


def test_parts_of_any_name_are_text():
    part = "{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    source = f"{{% for m in messages %}}{{% for part in m.content %}}{part}{{% endfor %}}{{% endfor %}}"
    parts = [{"type": "input_text", "text": "A"}, "B", {"text": "C"}]
    assert ChatTemplate(source, {}).render([text("user", parts)]) == "ABC"


CALLS = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.type == 'function' %}{{ c.function.name }}"
    "{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %};{% endif %}{% endfor %}"
    "{% if m.role == 'tool' %}{{ m.name + ' ' + m.tool_call_id + ' ' + m.content }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("arguments", [None, "", "null", "{}", {}])
def test_calls_without_arguments_type_or_id(arguments):
    calls = text("assistant", None, tool_calls=[{"function": {"name": "now", "arguments": arguments}}])
    shown = ChatTemplate(CALLS, {}).render([USER, calls, text("tool", "noon")])
    assert shown == "now;now call00001 noon"


def test_calls_of_functions_as_they_were_before_tools():
    calls = text("assistant", None, function_call={"name": "add", "arguments": '{"n": 1}'})
    messages = [USER, calls, text("function", "sum: 2", name="add")]
    assert ChatTemplate(CALLS, {}).render(messages) == "add n=1;add call00001 sum: 2"
    told = ChatTemplate(ALL, {}).converse(messages)
    assert '"n": 1' in told and "sum: 2" in told and "[function]" not in told


def test_messages_are_left_as_they_were():
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": PARTS}, call("{}", content=None)]
    before = json.dumps(messages)
    ChatTemplate(STRICT.replace("{{ raise_exception('turns') }}", ""), {}).render(messages)
    assert json.dumps(messages) == before


@pytest.mark.parametrize(
    "source, expected",
    [
        ("{{ tools | selectattr('type') | list }}", "[]"),  # functionary 3.1 does that without tools
        ("{{ messages | map(attribute='role') | tojson }}", '["user"]'),
        ("{% set x = '{\"a\": [1]}' | from_json %}{{ x.a[0] + 1 }}", "2"),
        ("{% set l = [1] %}{% set _ = l.append([2]) %}{{ l }}{{ l.pop(0) }}{{ l | length }}", "[1, [2]]11"),
        ("{{ 'ab' | center(4) }}|{{ 'a b c' | wordwrap(3) }}|{{ [1] | pprint }}", " ab |a b\nc|[1]"),
        ("{{ '<b>x</b>' | striptags }}{{ {'a': 1} | xmlattr }}{{ [7] | random }}", 'x a="1"7'),
        ("{{ 2000 | filesizeformat }}", "2.0 kB"),
        ("{#" + "x" * 200_000 + "#}ok", "ok"),
    ],
)
def test_what_templates_call(source, expected):
    assert ChatTemplate(source, {}).render([USER]) == expected
