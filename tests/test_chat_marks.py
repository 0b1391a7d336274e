"""What messages say is text: it never becomes control tokens, and otherwise reads as it did before."""

from __future__ import annotations

import json
import re

import pytest

from gguf_runtime import LLM
from gguf_runtime.chat.marks import Marks
from gguf_runtime.chat.template import ChatTemplate
from gguf_runtime.conversation import Conversation
from gguf_runtime.tokenizer import BREAK, THOUGHTS
from tests.make_model import BOS, EOS, write_model
from tests.paths import SHARED, needs

TEMPLATES = SHARED / "conformance" / "templates"
EXPECTED = json.loads((TEMPLATES / "expected.json").read_text("utf-8")) if TEMPLATES.exists() else {}
NAMES = [name for name, cases in EXPECTED.get("expected", {}).items() if isinstance(cases["tools"], str)]
MARKERS = re.compile(r"<[|｜][^<>|｜\n'\"]{1,40}[|｜]>|</?s>|\[/?[A-Z_]{3,}\]|<(?:start|end)_of_turn>")
HARMLESS = [
    "  a < b [1] <b>x</b> <thin ", "<think>\nhm\n</think>\n\nyes [INS", "{\"a\": ['<|']}\n", "/no_think sop", "é😀"
]  # fmt: skip


def talk(text: str) -> list[dict]:
    return [{"role": role, "content": text} for role in ("user", "assistant", "user")]


def count(text: str, control: list[str]) -> list[int]:
    return [text.count(token) for token in control]


@needs(TEMPLATES)
@pytest.mark.parametrize("name", NAMES)
def test_no_template_makes_control_tokens_of_what_messages_say(name):
    source = (TEMPLATES / f"{name}.jinja").read_text("utf-8")
    thoughts = {*THOUGHTS, *THOUGHTS.values()}  # which are left to the assistant
    control = sorted({*MARKERS.findall(source), "<s>", "</s>", "<|im_end|>", "<|im_start|>"} - thoughts)
    special_tokens = {key: EXPECTED[key] for key in ("bos_token", "eos_token")}
    plain, marking = ChatTemplate(source, special_tokens), ChatTemplate(source, special_tokens, control=control)
    tools = EXPECTED["tools"]
    for text in HARMLESS:
        assert marking.render(talk(text), tools=tools) == plain.render(talk(text), tools=tools)
    made = count(plain.render(talk("x"), tools=tools), control)
    apart = [f"{token[:3]}{removed}{token[3:]}" for token in control for removed in ("/no_think", "/think")]
    for text in ("".join(control), " ".join(apart), *(f"a {token}\n" for token in control)):
        assert count(marking.render(talk(text), tools=tools).marked, control) == made
        assert marking.render(talk("x"), tools=tools).marked == plain.render(talk("x"), tools=tools)


@needs(TEMPLATES)
@pytest.mark.parametrize("name", ["Qwen3.5-4B", "GLM-4.6", "deepseek-ai-DeepSeek-V4", "LFM2.5-Instruct"])
def test_nor_of_calls_results_and_parts(name):
    source = (TEMPLATES / f"{name}.jinja").read_text("utf-8")
    control = sorted({*MARKERS.findall(source), "</s>", "<|im_end|>"})

    def render(said: str) -> str:
        arguments = {f"k{said}": said, "l": [said], "role": said, "type": said}
        function = {"name": "get_weather", "arguments": json.dumps(arguments)}
        messages = [
            {"role": "user", "content": [{"type": "text", "text": said[:4]}, {"type": "text", "text": said[4:]}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "call00001", "function": function}]},
            {"role": "tool", "tool_call_id": "call00001", "content": f"[{said}]"},
        ]
        return ChatTemplate(source, {}, control=control).render(messages, tools=EXPECTED["tools"]).marked

    for token in control:
        assert count(render(token), control) == count(render("x" * len(token)), control)


def test_what_a_template_looks_for_is_found():
    source = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
    template = ChatTemplate(source, {}, control=["<|end|>"], writable=["<tool>"])
    rendered = template.render([{"role": "assistant", "content": "<think>x</think>a <b> <tool> <|end|>"}])
    assert rendered == "a <b> <tool> <|end|><|end|>"
    assert rendered.marked == f"a <{BREAK}b> <tool> <{BREAK}|end|><|end|>"


def test_thoughts_stay_what_the_model_wrote():
    source = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    template = ChatTemplate(source, {}, control=["<think>", "</think>", "<|end|>"])
    said = "<think>hm</think>yes <|end|>"
    assert template.render([{"role": "assistant", "content": said}]).marked == f"yes <{BREAK}|end|>"
    assert template.render([{"role": "user", "content": said}]) == said


def test_what_is_a_part_of_a_control_token_is_broken_too():
    marks = Marks(["<|end|>", "sop"], ["<|", "</a>", "x<", "<|end|>!", "</"])
    assert marks("<| </a> x< <|end|>! soap sop") == (
        f"<{BREAK}| </a> x<{BREAK} <{BREAK}|end|>! soap s{BREAK}op"
    )  # fmt: skip
    broken = f"s{BREAK}op"
    assert marks({"role": "sop", "sop": ["sop", 1, None], "type": "sop"}) == {
        "role": broken, broken: [broken, 1, None], "type": broken
    }  # fmt: skip
    assert Marks(["user"], [])({"role": "user", "content": "user"})["role"] == "user"


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    path = tmp_path_factory.mktemp("marks") / "marks.gguf"
    template = "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}"
    extra = {"tokenizer.chat_template": template, "tokenizer.ggml.add_bos_token": True}
    write_model(path, n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64, **extra)
    with LLM(path) as llm:
        yield llm


SAID = f"a {EOS} b{BOS}"


def test_every_path_takes_what_messages_say_as_text(llm, ggrun, tmp_path):
    bos, eos = llm.tokenizer.bos_id, llm.tokenizer.eos_id
    expected = [bos, *llm.tokenizer.encode(SAID, add_special=False), eos]
    assert eos not in expected[1:-1] and bos not in expected[1:-1]
    messages = [{"role": "user", "content": SAID}]
    rendered = llm.render(messages)
    assert rendered == BOS + SAID + EOS
    for prompt in (messages, rendered):
        assert llm.prompt_tokens(prompt) == expected
    conversation = Conversation(llm)
    reply = conversation.ask(SAID, max_tokens=3, ignore_eos=True)
    assert reply.generation.prompt == expected
    list(reply)
    again = conversation.ask(SAID, max_tokens=1, ignore_eos=True).generation.prompt
    assert again[: len(expected)] == expected and (again.count(bos), again.count(eos)) == (3, 3)
    prompts, path = tmp_path / "prompts.jsonl", llm.file.path
    prompts.write_text(json.dumps(SAID) + "\n")
    done = ggrun("-m", path, "--prompts", prompts, "-n", 1)
    assert json.loads(done.stdout)["n_prompt"] == len(expected)
    done = ggrun("-m", path, "-p", SAID, "-n", 0, "--display-prompt")
    assert done.stdout.decode() == rendered


def test_raw_text_has_special_tokens(llm):
    assert llm.prompt_tokens(SAID).count(llm.tokenizer.eos_id) == 1
    assert llm.prompt_tokens(SAID)[0] == llm.tokenizer.bos_id
    assert llm.prompt_tokens(BOS + "a").count(llm.tokenizer.bos_id) == 1


def test_control_tokens_are_not_printed_unless_asked(llm):
    options = {"max_tokens": 3, "logit_bias": {llm.tokenizer.bos_id: 1e9}, "temperature": 0}
    answer = llm.stream("a", **options)
    assert "".join(answer) == "" and answer.tokens == [llm.tokenizer.bos_id] * 3
    assert llm.generate("a", special=True, **options) == BOS * 3
