"""Chat templates, against what transformers renders."""

import json
from datetime import datetime

import pytest

from gguf_runtime.chat.template import ChatError, ChatTemplate
from tests.paths import SHARED, needs

TEMPLATES = SHARED / "conformance" / "templates"
EXPECTED = json.loads((TEMPLATES / "expected.json").read_text("utf-8")) if TEMPLATES.exists() else {}
NAMES = list(EXPECTED.get("expected", ["none"]))
USER = [{"role": "user", "content": "Hi"}]


def render(source, messages=USER, special_tokens=(), **variables):
    return ChatTemplate(source, dict(special_tokens)).render(messages, **variables)


@needs(TEMPLATES)
@pytest.mark.parametrize("name", NAMES)
def test_published_templates_render_as_in_transformers(name):
    special_tokens = {key: EXPECTED[key] for key in ("bos_token", "eos_token")}
    template = ChatTemplate((TEMPLATES / f"{name}.jinja").read_text("utf-8"), special_tokens)
    for case, expected in EXPECTED["expected"][name].items():
        messages = EXPECTED["conversations"].get(case, EXPECTED["conversations"]["user"])
        tools = EXPECTED["tools"] if case == "tools" else None
        try:
            rendered = template.render(messages, tools=tools)
        except ChatError as error:
            rendered = {"error": type(error.__cause__).__name__}
        assert rendered == expected, case


def test_blocks_leave_no_white_space():
    source = "{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}"
    assert render(source) == "Hi\n"


def test_loop_controls():
    assert (
        render(
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
            "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        )
        == "02"
    )


def test_tojson_is_plain_json():
    assert render("{{ x | tojson }}", x={"b": "<é>", "a": None}) == '{"b": "<é>", "a": null}'
    assert render("{{ x | tojson(indent=1) }}", x=[1]) == "[\n 1\n]"
    source = "{{ x | tojson(separators=(',', ':'), sort_keys=true) }}"
    assert render(source, x={"b": 1, "a": 2}) == '{"a":2,"b":1}'


def test_generation_blocks_keep_their_variables():
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert render(source) == "21"


def test_variables():
    source = "{{ bos_token }}{{ add_generation_prompt }}{{ tools is none }}{{ documents[0].title }}{{ mine }}"
    rendered = render(source, special_tokens={"bos_token": "<s>"}, documents=[{"title": "T"}], mine=3)
    assert rendered == "<s>TrueTrueT3"
    assert render("[{{ bos_token }}]") == "[]"


def test_the_date():
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)


def test_reasoning_has_both_its_names():
    source = "{{ messages[0].thinking }}{{ messages[0].reasoning_content }}"
    assert render(source, [{"role": "assistant", "reasoning": "hm"}]) == "hmhm"


def test_a_refusal_says_why():
    with pytest.raises(ChatError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize("source", ["{% if %}", "{{ 1 +", "{% nope %}", "{% for x in y %}"])
def test_a_template_that_is_not_jinja(source):
    with pytest.raises(ChatError, match="not valid"):
        ChatTemplate(source, {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ range(10**9) }}",
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
    ],
)
def test_the_sandbox_holds(source):
    with pytest.raises(ChatError):
        render(source)
