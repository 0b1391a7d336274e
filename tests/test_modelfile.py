"""Modelfiles and Ollama's templates."""

from __future__ import annotations

import json
import os

import pytest

from gguf_runtime.chat.gotemplate import GoTemplateError, to_jinja
from gguf_runtime.chat.template import ChatTemplate
from gguf_runtime.store import StoreError, modelfile
from tests.make_model import BOS
from tests.test_cli import one_line

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi {{x}}"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Why?"},
]
EXCHANGE = """{{ if .System }}<s>{{ .System }}</s>{{ end }}{{ if .Prompt }}<u>{{ .Prompt }}</u>
{{ end }}<a>{{ .Response }}</a>
"""
MESSAGES = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if or (eq .Role "user") (eq .Role "system") }}[{{ .Role }}]{{ .Content }}
{{ else if eq .Role "assistant" "model" }}[me]{{ .Content }}{{ if not $last }};
{{ end }}
{{- end }}
{{- if and (ne .Role "assistant") $last }}[me]
{{- end }}
{{- end }}"""


def rendered(template, talk=TALK, **variables):
    return ChatTemplate(to_jinja(template), {}).render(talk, **variables)


# what Go makes of these, by its rules: `-` takes the white space on its side, and the last exchange ends at .Response
@pytest.mark.parametrize(
    "template, text",
    [
        (EXCHANGE, "<s>Be brief.</s><u>Hi {{x}}</u>\n<a>Yes?</a>\n<u>Why?</u>\n<a>"),
        # without a place for the system message, it goes with the first of the user
        ("Q: {{ .Prompt }}\nA: ", "Q: Be brief.\nHi {{x}}\nA: Yes?Q: Why?\nA: "),
        (MESSAGES, "[system]Be brief.\n[user]Hi {{x}}\n[me]Yes?;\n[user]Why?\n[me]"),
        ("{{ .System }}{{ range .Messages }}{{ if eq .Role `user` }}|{{ .Content | json }}{{ end }}{{ end }}",
         'Be brief.|"Hi {{x}}"|"Why?"'),
        ("{{ range $m := .Messages }}{{ with $m.Thinking }}T{{ . }}{{ else }}-{{ end }}{{ end }}", "----"),
        ("{{ (index .Messages 1).Content }}{{ /* a remark */ }}{{ len .Messages }}", "Hi {{x}}4"),
        ("{{ if and .Tools (gt (len .Messages) 9) }}t{{ else }}none '\\n{{ .Messages | len }}{{ end }}", "none '\\n4"),
        ("{{- $n := 0 }}{{ range $i, $m := .Messages }}{{ $n = $i }}{{ end }}{{ $n }}", "3"),
    ],
)  # fmt: skip
def test_templates_of_ollama(template, text):
    assert rendered(template) == text


def test_what_a_template_is_given():
    source = "{{ range .Messages }}{{ end }}{{ if .IsThinkSet }}{{ .Think }}{{ end }}"
    source += "{{ range .Tools }}{{ .Function.Name }}{{ end }}"
    assert rendered(source) == ""
    tools = [{"type": "function", "function": {"name": "look"}}]
    assert rendered(source, enable_thinking=True, tools=tools).lower() == "truelook"


@pytest.mark.parametrize(
    "wrong", ["{{ if .System }}", "{{ end }}", "{{ else }}", "{{ .Nothing }}", "{{ printf `%s` .System }}",
              "{{ .System", "{{ template `x` }}", "{{ eq .System ( }}", "{{ 'x' }}", "{{ . }}", "{{ slice }}"],
)  # fmt: skip
def test_templates_that_are_refused(wrong):
    with pytest.raises(GoTemplateError):
        to_jinja(wrong)


TEXT = '''# a remark
FROM ./base.gguf
parameter temperature 0
PARAMETER stop "<end>"
PARAMETER stop ;
PARAMETER num_predict 7
PARAMETER use_mmap false
SYSTEM """Be brief.
And "kind"."""
MESSAGE user Hi there
MESSAGE assistant "Hello."
LICENSE MIT
'''


def test_a_modelfile():
    found = modelfile.parse(TEXT)
    assert found.base == "./base.gguf" and found.system == 'Be brief.\nAnd "kind".' and found.licenses == ("MIT",)
    assert found.parameters == (
        ("temperature", 0.0), ("stop", "<end>"), ("stop", ";"), ("num_predict", 7), ("use_mmap", False),
    )  # fmt: skip
    assert found.messages == (("user", "Hi there"), ("assistant", "Hello."))
    assert modelfile.parse(found.text()) == found
    other = modelfile.parse("FROM x\nPARAMETER temperature 1\nPARAMETER seed 3\nTEMPLATE t\nSYSTEM s")
    both = found.over(other)
    assert both.template == "t" and both.system == found.system and ("seed", 3) in both.parameters
    assert ("temperature", 1.0) not in both.parameters


def test_a_modelfile_of_other_times():
    text = 'from x\nPARAMETER LOW_VRAM true\nREQUIRES 0.14.0\nSYSTEM "One\fline\u2028of\ntwo"\nPARAMETER seed 1\n'
    found = modelfile.parse(text)
    assert found.system == "One\fline\u2028of\ntwo" and found.parameters == (("seed", 1),)


@pytest.mark.parametrize(
    "text, words",
    [
        ("SYSTEM x", "no FROM"), ("FROM x\nADAPTER y", "line 2: ADAPTER: LoRA"), ("FROM x\nHELLO y", "line 2: HELLO"),
        ("FROM x\nPARAMETER tfs_z 1", "tfs_z"), ("FROM x\nPARAMETER top_k x", "top_k does not take 'x'"),
        ("FROM x\nMESSAGE robot hi", "robot"), ('FROM x\nSYSTEM """y', "line 2"), ("FROM", "line 1"),
        ("FROM x\nPARAMETER use_mmap 3", "use_mmap"), ("FROM x\nRENDERER qwen3", "part of Ollama"),
        ('FROM x\nSYSTEM "a', 'line 2: " is not closed'), ('FROM x\nPARAMETER stop "a" b', "'b' stands after"),
    ],
)  # fmt: skip
def test_modelfiles_that_are_wrong(text, words):
    with pytest.raises(StoreError, match=words):
        modelfile.parse(text)


@pytest.fixture
def ours(ggrun, tmp_path, chat_model):
    """ggrun with a store of its own, and a folder with a model and its Modelfile."""
    environment = {**os.environ, "GGRUN_MODELS": str(tmp_path / "store"), "HF_HOME": str(tmp_path)}
    (tmp_path / "base.gguf").write_bytes(chat_model.read_bytes())
    (tmp_path / "Modelfile").write_text(TEXT)
    return lambda *args, **more: ggrun(*args, env=environment, **more)


def test_a_model_made_from_a_modelfile(ours, tmp_path, chat_model):
    made = ours("create", "poet", "-f", tmp_path / "Modelfile")
    assert made.returncode == 0 and made.stdout.startswith(b"poet: ")
    shown = ours("run", "poet", "Hi", "-n", 0, "--display-prompt").stdout.decode()
    messages = '[system] Be brief.\nAnd "kind".\n[user] Hi there\n[assistant] Hello.\n[user] Hi\n[assistant]'
    assert shown == BOS + messages
    answer = json.loads(ours("-m", "poet", "-p", "Hi", "--json", "--ignore-eos").stdout)
    assert answer["n_tokens"] <= 7
    again = json.loads(ours("-m", "poet", "-p", "Hi", "--json", "--ignore-eos", "--temp", 0).stdout)
    assert again["tokens"] == answer["tokens"]
    assert json.loads(ours("-m", "poet", "-p", "Hi", "--json", "--ignore-eos", "-n", 3).stdout)["n_tokens"] == 3
    other = ours("-m", "poet", "-sys", "Shout.", "-p", "Hi", "-n", 0, "--display-prompt").stdout.decode()
    assert other.startswith(f"{BOS}[system] Shout.\n[user] Hi there")
    assert ours("chat", "poet", input=b"Hi\n").returncode == 0
    assert modelfile.parse(ours("show", "poet", "--modelfile").stdout.decode()).system == 'Be brief.\nAnd "kind".'
    assert b"Be brief" in ours("show", "poet").stdout
    assert b"FROM /" in ours("show", chat_model, "--modelfile").stdout.replace(b"FROM \\", b"FROM /") or os.name == "nt"
    listed = json.loads(ours("list", "--json").stdout)
    assert ("poet", "created") in [(model["name"], model["place"]) for model in listed]


def test_models_made_of_made_ones(ours, tmp_path):
    assert ours("create", "poet", "-f", tmp_path / "Modelfile").returncode == 0
    second = tmp_path / "Second"
    second.write_text('FROM poet\nSYSTEM Shout.\nTEMPLATE """{{ .System }}|{{ .Prompt }}|{{ .Response }}"""\n')
    assert ours("create", "loud", "-f", second).returncode == 0
    shown = ours("-m", "loud", "-p", "Hi", "-n", 0, "--display-prompt").stdout
    assert shown == f"{BOS}Shout.|Hi there|Hello.|Hi|".encode() or shown == b"Shout.|Hi there|Hello.|Hi|"
    assert ours("create", "loud", "-f", second).returncode == 0  # anew
    assert ours("cp", "loud", "copy").returncode == 0
    assert ours("-m", "copy", "-p", "Hi", "-n", 0, "--display-prompt").stdout == shown
    assert ours("rm", "loud").returncode == 0 and ours("-m", "copy", "-p", "Hi", "-n", 1).returncode == 0


def test_what_cannot_be_made(ours, tmp_path):
    file = tmp_path / "Wrong"
    for text, words in {
        "FROM nothing.gguf": ["nothing.gguf"],
        "FROM ./base.gguf\nADAPTER x": ["Wrong", "line 2", "LoRA"],
        "FROM ./base.gguf\nTEMPLATE {{ .Nothing }}": ["Wrong", "TEMPLATE", ".Nothing"],
    }.items():
        file.write_text(text)
        done = ours("create", "poet", "-f", file)
        assert done.returncode == 1
        one_line(done, *words)
    assert ours("create", "a/b", "-f", tmp_path / "Modelfile").returncode == 1
    assert ours("create", "x", "-f", tmp_path / "none").returncode == 1
    assert b"poet" not in ours("list").stdout
