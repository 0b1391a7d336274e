"""Small chat templates that write calls in each of the ways that models' templates have."""

from __future__ import annotations

_BASE = (
    "{%% if tools %%}[tools]{{ tools | tojson }}{%% endif %%}"
    "{%% for m in messages %%}{%% if m.role == 'assistant' %%}<|A|>\n"
    "{%% if m.reasoning_content %%}<think>\n{{ m.reasoning_content }}\n</think>\n\n{%% endif %%}"
    "{{ m.content or '' }}{%% if m.tool_calls %%}%s{%% endif %%}<|end|>\n"
    "{%% else %%}<|{{ m.role }}|>{{ m.content }}<|end|>\n{%% endif %%}{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|A|>\n{%% endif %%}"
)


def _calls(call: str, opening: str = "", closing: str = "", between: str = "") -> str:
    """A template that writes each call so. f: its function."""
    separator = f"{{% if not loop.last %}}{between}{{% endif %}}" if between else ""
    loop = f"{{% for c in m.tool_calls %}}{{% set f = c.function %}}{call}{separator}{{% endfor %}}"
    return _BASE % f"{opening}{loop}{closing}"


def _each(call: str) -> str:
    """Each argument k, v so."""
    return f"{{% for k, v in f.arguments.items() %}}{call}{{% endfor %}}"


_OBJECT = '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}'
_WITH_ID = '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}, "id": "{{ c.id }}"}'
_VALUE = "{{ v if v is string else v | tojson }}"
_BARE = (
    "{% macro bare(v) %}{% if v is string %}<|q|>{{ v }}<|q|>{% elif v is mapping %}"
    "{ {%- for k, w in v.items() %}{{ k }}:{{ bare(w) }}{% if not loop.last %},{% endif %}{% endfor -%} }"
    "{% elif v is iterable %}[{% for w in v %}{{ bare(w) }}{% if not loop.last %},{% endif %}{% endfor %}]"
    "{% else %}{{ v | tojson }}{% endif %}{% endmacro %}"
)
_NESTED = (
    "{% macro nested(v) %}{% if v is mapping %}{% for k, w in v.items() %}"
    "!<{{ k }}>{{ nested(w) }}!</{{ k }}>{% endfor %}"
    "{% elif v is iterable and v is not string %}{% for w in v %}!<item>{{ nested(w) }}!</item>{% endfor %}"
    "{% else %}{{ v if v is string else v | tojson }}{% endif %}{% endmacro %}"
)
_PYTHON = (
    "{% macro python(v) %}{% if v is string %}'{{ v }}'{% elif v is mapping or v is none %}{{ v | tojson }}"
    "{% else %}{{ v | string }}{% endif %}{% endmacro %}"
)

#: By what is particular about them.
TEMPLATES = {
    "object": _calls(f"<tool_call>\n{_OBJECT}\n</tool_call>", between="\n"),
    "object in lines": _calls(f"{_OBJECT}\n", "<calls>\n", "</calls>"),
    "object, id last": _calls(_WITH_ID, "[CALLS][", "]", ", "),
    "object, id first": _calls(
        '\n    {"call_id": "{{ loop.index0 }}", "tool": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}',
        "<|ACT|>[", "\n]<|/ACT|>", ",",
    ),
    "object, name as key": _calls('{"{{ f.name }}": {{ f.arguments | tojson }}}', "<|c|>[", "]<|/c|>", ", "),
    "object, no marker": _calls('{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'),
    "word and list": _calls(_OBJECT, " functools[", "]", ", "),
    "header": _calls("[CALL]{{ f.name }}[ARGS]{{ f.arguments | tojson }}"),
    "header, id": _calls("[CALL]{{ f.name }}[CALL_ID]{{ c.id }}[ARGS]{{ f.arguments | tojson }}"),
    "header, id first": _calls(
        "<|call|>{{ c.id }}<|name|>{{ f.name }}<|args|>{{ f.arguments | tojson }}<|/call|>", "<|calls|>", "<|/calls|>"
    ),
    "header, counted": _calls(
        "<|call|>functions.{{ f.name }}:{{ loop.index0 }}<|args|>{{ f.arguments | tojson }}<|/call|>",
        "<|section|>", "<|/section|>",
    ),
    "header, fenced": _calls(
        "<|call|>function<|sep|>{{ f.name }}\n```json\n{{ f.arguments | tojson }}\n```<|/call|>",
        "<|calls|>", "<|/calls|>", "\n",
    ),
    "function tag": _calls("<function={{ f.name }}>{{ f.arguments | tojson }}</function>"),
    "tagged": _calls(
        "<call>\n<function={{ f.name }}>\n" + _each(f"<parameter={{{{ k }}}}>\n{_VALUE}\n</parameter>\n")
        + "</function>\n</call>", between="\n",
    ),
    "tagged, attributes": _calls(
        '<invoke name="{{ f.name }}">\n' + _each(f'<parameter name="{{{{ k }}}}">{_VALUE}</parameter>\n')
        + "</invoke>\n", "<x:call>\n", "</x:call>",
    ),
    "tagged, keys and values": _calls(
        "<call>{{ f.name }}\n" + _each(f"<key>{{{{ k }}}}</key>\n<value>{_VALUE}</value>\n") + "</call>", between="\n"
    ),
    "tagged, marked": _calls(
        '<invoke name="{{ f.name }}">\n'
        + _each(f'<p name="{{{{ k }}}}" string="{{{{ "true" if v is string else "false" }}}}">{_VALUE}</p>\n')
        + "</invoke>\n", "<calls>\n", "</calls>",
    ),
    "nested": _NESTED + _calls('!<invoke name="{{ f.name }}">{{ nested(f.arguments) }}!</invoke>\n', "!<c>\n", "!</c>"),
    "bare": _BARE + _calls("<|call>call:{{ f.name }}{{ bare(f.arguments) }}<call|>"),
    "python": _PYTHON + _calls(
        "{{ f.name }}("
        + _each("{{ k }}={{ python(v) }}{% if not loop.last %}, {% endif %}") + ")", "<|c|>[", "]<|/c|>", ", ",
    ),
}  # fmt: skip
#: Text is in a wrapper, and the prompt has the beginning of calls and of text.
TEMPLATES["recipients"] = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|A|>\n"
    "{% if m.content %}>>>all\n{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls %}>>>{{ c.function.name }}\n{{ c.function.arguments | tojson }}{% endfor %}<|end|>\n"
    "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|A|>\n>>>{% endif %}"
)
TEMPLATES["wrapped"] = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|A|>"
    "{% if m.reasoning_content %}<|thought|>{{ m.reasoning_content }}<|/thought|>{% endif %}"
    "{% if m.tool_calls %}<|act|>[{% for c in m.tool_calls %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]<|/act|>"
    "{% else %}<|text|>{{ m.content }}<|/text|>{% endif %}<|end|>"
    "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|A|>{% endif %}"
)
#: Several messages with headers, as in gpt-oss.
TEMPLATES["messages"] = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.reasoning_content %}{{ '<|start|>assistant<|channel|>analysis<|message|>' }}"
    "{{ m.reasoning_content }}<|end|>{% endif %}"
    "{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
    "<|start|>assistant to=functions.{{ f.name }}<|channel|>commentary json<|message|>"
    "{{ f.arguments | tojson }}<|call|>"
    "{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>{% endif %}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
#: It knows neither tools nor calls nor results.
PLAIN = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no such role') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
