"""Chat templates, against what transformers renders."""

import json
import threading
from datetime import datetime
from pathlib import Path

import pytest

from gguf_runtime.chat import builtin, limits
from gguf_runtime.chat.template import ChatError, ChatTemplate
from tests.paths import SHARED, needs

TEMPLATES = SHARED / "conformance" / "templates"
EXPECTED = json.loads((TEMPLATES / "expected.json").read_text("utf-8")) if TEMPLATES.exists() else {}
NAMES = list(EXPECTED.get("expected", ["none"]))
FORMATS = json.loads(Path(__file__).with_name("recorded").joinpath("chat_formats.json").read_text("utf-8"))
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
        if case == "system" and expected == {"error": "TemplateError"}:  # refused: it goes with the user's message
            expected = EXPECTED["expected"][name]["user"].replace("Hello", "You are terse.\nHi there")
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
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ dict.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ messages.pop() }}",
        "{{ [].append.__self__.__class__.mro() }}",
        "{{ ([] | attr('__class__')) }}{{ ([] | attr('__class__')).__base__ }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ '{x.__class__.__mro__}'.format_map({'x': 1}) }}",
        "{{ ('{0.__class__.__mro__}' | format(1)).x.y }}",
        "{{ [1] | map(attribute='__class__') | map('string') | map('x') | list }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__code__.co_code }}",
        "{{ ('' | from_json) }}",
    ],
)
def test_the_sandbox_holds(source):
    with pytest.raises(ChatError):
        render(source)


LOOP = "{% set ns = namespace(x=()) %}{% for a in range(99999) %}{% for b in range(99999) %}"
BIG = "{% set ns = namespace(x='ab') %}{% for i in range(20) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"  # 2 MB
GROW = "{% set ns = namespace(x=X) %}{% for i in range(99) %}{% set ns.x = Y %}{% endfor %}"
HOSTILE = {
    "range": "{{ range(10**9) | list }}",
    "nested loops": LOOP + "{% endfor %}{% endfor %}",
    "nested loops with output": LOOP + "{{ a }}{% endfor %}{% endfor %}",
    "recursive loop": "{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "macro": "{% macro m(n) %}{{ m(n - 1) }}{{ m(n - 1) }}{% endmacro %}{{ m(900) }}",
    "two calls at each depth": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "chain of maps": "{% set ns = namespace(x=range(99999)) %}{% for i in range(9999) %}"
    "{% set ns.x = ns.x | map('abs') %}{% endfor %}{{ ns.x | list | length }}",
    "multiplied text": "{{ 'x' * 10**10 }}",
    "multiplied list": "{{ [1] * 10**10 }}",
    "multiplied number": GROW.replace("X", "2").replace("Y", "ns.x * ns.x"),
    "power": "{{ 10 ** (10 ** 10) }}",
    "power of a variable": "{% set x = 10 %}{{ x ** (x ** x) }}",
    "long division": "{{ ('f' * 10**6) | int(base=16) // 3 }}",
    "doubled by ~": GROW.replace("X", "'x'").replace("Y", "ns.x ~ ns.x"),
    "doubled by +": GROW.replace("X", "'x'").replace("Y", "ns.x + ns.x"),
    "doubled by replace": GROW.replace("X", "'x'").replace("Y", "ns.x.replace('x', 'xx')"),
    "doubled by the filter replace": GROW.replace("X", "'x'").replace("Y", "ns.x | replace('x', 'xx')"),
    "doubled by join": GROW.replace("X", "'xx'").replace("Y", "ns.x.join(ns.x)"),
    "doubled by the filter join": GROW.replace("X", "'xx'").replace("Y", "ns.x | join(ns.x)"),
    "doubled by format": GROW.replace("X", "'x'").replace("Y", "'{0}{0}'.format(ns.x)"),
    "doubled by %": GROW.replace("X", "'x'").replace("Y", "'%s%s' % (ns.x, ns.x)"),
    "doubled by a block": GROW.replace("X", "'x'").replace(
        "{% set ns.x = Y %}", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"
    ),
    "nested lists": GROW.replace("X", "[]").replace("Y", "[ns.x, ns.x]") + "{{ ns.x }}",
    "nested dicts": GROW.replace("X", "{}").replace("Y", "{1: ns.x, 2: ns.x}") + "{{ ns.x | tojson }}",
    "nested views": GROW.replace("X", "{}").replace("Y", "{1: [ns.x.values(), ns.x.values()]}") + "{{ ns.x }}",
    "nested tuples as keys": GROW.replace("X", "()").replace("Y", "(ns.x, ns.x)") + "{{ ns.x in {1: 2} }}",
    "deep tuples as keys": LOOP + "{% set ns.x = (ns.x,) %}{% endfor %}{{ ns.x in {1: 2} }}{% endfor %}",
    "deep generators": LOOP + "{% set ns.x = ns.x | map('abs') %}{% endfor %}{% endfor %}",
    "slices": BIG + "{% set a = ns.x[1:] %}" * 2_000,
    "blocks": BIG + "{% set a %}{{ ns.x }}{% endset %}" * 1_500,
    "sum of lists": "{{ ([[1]] * 99999) | sum(start=[]) | length }}",
    "many large texts": BIG + "{% for i in range(99999) %}{% set y = ns.x ~ i %}{% endfor %}",
    "large output": BIG + "{% for i in range(99999) %}{{ ns.x }}{% endfor %}",
    "width of %": "{{ '%9999999999d' % 1 }}",
    "width of % as a value": "{{ '%*d' % (10**9, 1) }}",
    "width of format": "{{ '{:9999999999}'.format(1) }}",
    "width of format as a value": "{{ '{:{}}'.format(1, 10**9) }}",
    "width of the filter format": "{{ '%9999999999d' | format(1) }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "zfill": "{{ 'x'.zfill(10**10) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**10) }}",
    "to_bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "indent": "{{ 'x' | indent(10**10, true) }}",
    "indent by a text": BIG + "{{ ('\n' * 10**6) | indent(ns.x) }}",
    "indent of JSON": "{{ [[1]] | tojson(indent=10**9) }}",
    "batch": "{{ [1] | batch(10**10, 0) | list }}",
    "center": "{{ 'x' | center(10**10) }}",
    "lipsum": "{{ lipsum(n=10**7) }}",
    "striptags": BIG + "{{ ns.x | replace('a', '<') | striptags }}",
    "a list in lists that grows": "{% set l = [] %}{% set k = [l] * 99999 %}{% for i in range(99999) %}"
    "{% set _ = l.append('x' * 99) %}{% endfor %}{{ l }}",
    "lists appended to each other": "{% set a = [1] %}{% for i in range(99) %}{% set b = [] %}{% set _ = b.append(a) %}"
    "{% set _ = b.append(a) %}{% set _ = a.append(b) %}{% endfor %}{{ a }}",
    "a list appended to itself": "{% set a = [1] %}{% for i in range(99) %}{% set _ = a.append(a) %}{% endfor %}"
    "{{ a }}",
    "wordwrap": BIG + "{{ ns.x | wordwrap(1) }}",
    "wordwrap by a long text": BIG + "{{ ('x ' * 9999) | wordwrap(1, wrapstring=ns.x) }}",
    "pprint": "{{ ([[1]] * 99999) | pprint }}",
    "urlize": BIG + "{{ ns.x | urlize }}",
    "xmlattr": BIG + "{{ {'a': ns.x} | xmlattr }}",
    "translate": BIG + "{{ ns.x.translate({97: ns.x}) }}",
    "deep JSON": "{{ ('[' * 99999) | from_json }}",
    "JSON of a large number": "{{ ('9' * 99999) | from_json }}",
    "map of replace": BIG + "{{ [ns.x] | map('replace', 'a', ns.x) | list }}",
    "batches of batches": GROW.replace("X", "range(9999)").replace("Y", "ns.x | batch(1)") + "{{ ns.x | list }}",
    "joined by map": BIG + "{{ range(9999) | map('string') | join(ns.x) }}",
    "sorting": LOOP + "{% set y = range(99999) | sort %}{% endfor %}{% endfor %}",
    "messages written over": "{% for i in range(99999) %}{% set ns2 = namespace(m=messages * 99999) %}{% endfor %}",
    "replaced by keyword": BIG + "{{ ns.x | replace(new=ns.x, old='a') }}",
    "indent of other line ends": "{{ ('\r' * 2000000) | indent(1000, true) }}",
    "rfind": BIG + "{{ ns.x.rfind(ns.x[:900000] ~ 'c' ~ ns.x[:900000]) }}",
    "rsplit": BIG + "{{ ns.x.rsplit(ns.x[:900000] ~ 'c' ~ ns.x[:900000]) | length }}",
    "strip": BIG + "{{ ns.x.strip('c' * 1000000) }}",
    "trim": BIG + "{{ ns.x | trim('c' * 1000000) }}",
    "round": "{{ 5 | round(-1000000000) }}",
    "round up": "{{ 5 | round(1000000000, 'ceil') }}",
    "a list as text in a block": BIG + "{% set l = [ns.x[:1000000]] %}{% set y %}{% for i in range(99999) %}{{ l }}"
    "{% endfor %}{% endset %}",
    "a macro with a long name": "{% macro " + "a" * 50_000 + "() %}{% endmacro %}{{ [" + "a" * 50_000 + "] * 99999 }}",
    "lists compared": "{% set a = namespace(x=[]) %}{% set b = namespace(x=[]) %}{% for i in range(99) %}"
    "{% set a.x = [a.x, a.x] %}{% set b.x = [b.x, b.x] %}{% endfor %}{{ a.x == b.x }}",
    "tuples hashed": GROW.replace("X", "()").replace("Y", "(ns.x, ns.x)") + "{{ {}[ns.x] }}",
    "fromkeys": BIG + "{{ dict.fromkeys(range(99999), ns.x) | string | length }}",
    "a list in a dict that grows": "{% set l = [] %}{% set d = [dict(a=l)] * 9999 %}{% for i in range(99999) %}"
    "{% set _ = l.append('x' * 99) %}{% endfor %}{{ d }}",
    "lists appended in turn": "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set y = [] %}"
    "{% set _ = y.append(ns.x) %}{% set _ = y.append(ns.x) %}{% set ns.x = y %}{% endfor %}{{ ns.x }}",
    "many small lists": "{% set l = [] %}" + LOOP + "{% set _ = l.append([]) %}{% endfor %}{% endfor %}",
    "cycler": BIG + "{% set c = cycler(ns.x, [ns.x]) %}{% for i in range(99999) %}{{ c.next() }}{% endfor %}",
    "joiner": BIG + "{% set j = joiner(ns.x) %}{% for i in range(99999) %}{{ j() }}{% endfor %}",
    "a loop's cycle": BIG + "{% for i in range(99999) %}{{ loop.cycle(ns.x, i) }}{% endfor %}",
    "callers": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call m() %}" * 60 + "x"
    + "{% endcall %}" * 60,
    "two macros in turn": "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    "a filtered block": BIG + "{% filter replace('a', ns.x) %}{{ ns.x }}{% endfilter %}",
    "nested with": "{% with a=[1, 1] %}" + "{% with a=[a, a] %}" * 60 + "{{ a }}" + "{% endwith %}" * 61,
    "format of repeated fields": BIG + "{{ ('{0!r}' * 9999).format(ns.x) }}",
    "format of safe text": BIG + "{{ (('{0}' * 9999) | safe).format(ns.x) }}",
    "% of a mapping": BIG + "{{ ('%(a)s' * 1000) % {'a': ns.x} }}",
    "a power of a power": GROW.replace("X", "10 ** 300").replace("Y", "ns.x ** 2"),
    "a filtered loop": BIG + "{% for i in range(99999) if (ns.x ~ i) == (ns.x ~ 'b') %}{% endfor %}",
    "a block in itself": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "a regular expression": BIG + "{% for i in range(99999) %}{{ ns.x | title | wordcount }}{% endfor %}",
    "deep lists": "{{ " + "[" * 9999 + "]" * 9999 + " }}",
    "a chain of filters": "{{ x" + "|upper" * 9999 + " }}",
    "nested loops deep": "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
    "dates": "{{ strftime_now('%Y' * 1000000) }}",
    "a long template": "{{ x }}" * 99999,
    "a template of many words": "{{x}}" * 50_000,
    "batches filled": BIG + "{{ [1] | batch(9999, ns.x) | list }}",
    "urlize with a long rel": BIG + "{{ ('https://a.b ' * 999) | urlize(rel=ns.x) }}",
    "a deep template": "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "a deep block": "{% if true %}" * 999 + "{% endif %}" * 999,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end(monkeypatch, name):
    monkeypatch.setattr(limits, "_SECONDS", 0.3)
    errors = []

    def run():  # off the main thread, where no signal could help
        try:
            render(HOSTILE[name])
        except ChatError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and len(errors) == 1


@pytest.mark.parametrize(
    "source, expected",
    [
        ("{{ 'a' ~ 1 ~ none ~ [x] }}", "a1None['<']"),
        ("{{ x ~ ('<' | safe) }}{{ ('<' | safe).join(['a', 'b']) }}", "<<a<b"),
        ("{{ [{'a': 1}, {'a': 2}] | map(attribute='a') | join('+') }}{{ [{'a': 1}] | join(attribute='a') }}", "1+21"),
        ("{{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }}{{ [1, 2.5] | sum(start=1) }}", "34.5"),
        ("{{ 'aaa'.replace('a', 'b', 2) }}{{ 'aaa' | replace('a', 'b', 1) }}", "bbabaa"),
        ("{{ '%05d|%s' % (7, x) }}{{ '{:>3}{}'.format(1, x) }}{{ '%s in 2024' | format(x) }}", "00007|<  1<< in 2024"),
        ("{{ 'a\nb' | indent(2) }}{{ 'x' * 3 }}{{ 2 ** 10 }}{{ [1] + [2] }}{{ -7 // 2 }}", "a\n  bxxx1024[1, 2]-4"),
        ("{% for a, b in {'k': 1}.items() %}{{ a, b }}{{ loop.last }}{{ loop.length }}{% endfor %}", "('k', 1)True1"),
        ("{% for i in [[1, [2]], [3]] recursive %}{{ loop(i) if i is iterable else i }}{% endfor %}", "123"),
        ("{{ dict(a=1, **{'b': 2}) }}{{ dict.fromkeys([1], 2) }}", "{'a': 1, 'b': 2}{1: 2}"),
        ("{% set n = namespace(self=1, x=2) %}{% set n.x = 3 %}{{ n.self }}{{ n.x }}{{ n.y is undefined }}", "13True"),
        ("{% for i in nothing %}{% else %}empty{% endfor %}", "empty"),
        ("{% set a, b = 1, [x] %}{{ (a, b)[1][0] }}{{ messages[::-1] | length }}", "<1"),
        ("{% set x %}{{ x }}!{% endset %}{% macro m(y) %}[{{ y }}{{ caller() }}]{% endmacro %}"
         "{% call m(1) %}c{% endcall %}", "[1c]"),
    ],
)  # fmt: skip
def test_limits_leave_results_as_they_are(source, expected):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    assert plain.from_string(source).render(messages=USER, x="<") == expected
    assert render(source, x="<") == expected


def test_lists_grow_until_another_value_holds_them():
    """Kimi's template keeps ids so."""
    source = "{% set ns = namespace(x=[]) %}{% for i in [3, 4] %}{% set _ = ns.x.append(i) %}{% endfor %}"
    assert render(source + "{{ ns.x.pop(0) }}{{ ns.x }}") == "3[4]"
    for held in ("[ns.x]", "(ns.x,)", "{1: ns.x}", "dict(a=ns.x)"):
        with pytest.raises(ChatError, match="another value holds"):
            render(source + "{% set y = HELD %}{% set _ = ns.x.append(5) %}".replace("HELD", held))


def test_a_long_conversation_is_within_the_limits():
    messages = [{"role": "user", "content": "word " * 2000}, {"role": "assistant", "content": "ok"}] * 500
    source = (
        "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}{% endfor %}"
        "{% for m in ns.all %}{{ '[' + m['role'] + ']' + m['content'] | trim + '\n' }}{% endfor %}"
    )
    assert len(render(source, messages)) == sum(len(m["role"]) + len(m["content"].strip()) + 3 for m in messages)


@pytest.mark.parametrize("name", FORMATS["expected"])
def test_formats_by_name_as_in_llama_cpp(name):
    for case, expected in FORMATS["expected"][name].items():
        messages = [{"role": role, "content": content} for role, content in FORMATS["conversations"][case]]
        rendered = render(builtin.find(name), messages)
        assert rendered.removeprefix("<s>") == expected.removeprefix("<s>"), case  # the tokenizer adds one


def test_a_template_by_name_file_or_text(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}!", "utf-8")
    assert render(builtin.find(str(file))) == "Hi!"
    assert render(builtin.find("{{ 1 + 1 }}")) == "2"
    with pytest.raises(ChatError, match="neither a file nor the name .* chatml, "):
        builtin.find("chatmi")


def test_a_chosen_template_is_used(ggrun, model, chat_model):
    line = ["-n", 0, "--display-prompt", "-p", "Hi", "--chat-template", "chatml"]
    rendered = b"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert ggrun("-m", model, *line).stdout == rendered
    assert ggrun("-m", chat_model, *line).stdout == rendered
    done = ggrun("-m", model, *line[:-1], "nonsense")
    assert done.returncode == 2 and b"neither a file" in done.stderr
