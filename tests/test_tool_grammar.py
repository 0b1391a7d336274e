"""Grammars of calls: they take what templates write, and whatever a model of random weights answers are calls."""

import json
import re

import jsonschema
import pytest
from llguidance import LLMatcher

from gguf_runtime import LLM
from gguf_runtime.chat.answer import Answer
from gguf_runtime.chat.template import ChatTemplate
from gguf_runtime.chat.templates import ChatTemplates
from gguf_runtime.chat.tool_choice import choose
from gguf_runtime.chat.tool_grammar import tool_grammar
from gguf_runtime.conversation import Conversation, ConversationError
from gguf_runtime.loader import open_gguf
from gguf_runtime.sampling.constraint import Constraint, GrammarError
from gguf_runtime.tokenizer import Tokenizer
from tests.make_model import write_model
from tests.paths import SHARED, needs
from tests.test_tool_calls import call, template, written
from tests.tool_templates import PLAIN, TEMPLATES

VOCABULARY = SHARED / "conformance" / "tokenizers" / "qwen2.gguf"
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["C", "F"]},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "yes": {"type": "boolean"},
        "list": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
        "point": {"$ref": "#/$defs/point"},
    },
    "required": ["text", "n"],
    "$defs": {"point": POINT},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": SCHEMA}}
    for name in ("get_weather", "run-code.v2")
]
ARGUMENTS = [
    {"text": "Rome", "n": 3},
    {"text": 'a "b"', "unit": "C", "n": 0, "yes": True, "list": ["a", "b"], "point": {"x": -1}},
]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    path = tmp_path_factory.mktemp("tools") / "tools.gguf"
    extra = {"tokenizer.chat_template": PLAIN}
    write_model(path, n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64, n_ctx=4096, **extra)
    with LLM(path) as llm:
        yield llm


def grammar(form, choice, special=(), ends=(), **options):
    options = {"parallel": True, "closing": "", **options}
    return tool_grammar(form, choose(TOOLS, choice), special=dict(special), ends=ends, **options)


def takes(llm, grammar, text):
    """How many bytes of the text are an answer, at most; -1 for none."""
    matcher = Constraint(LLMatcher.grammar_from_lark(grammar), llm.tokenizer)._matcher
    ids = {token: i for i, token in enumerate(llm.tokenizer.all_bytes) if len(token) == 1}
    whole = -1
    for n, byte in enumerate(text.encode(), 1):
        if matcher.is_stopped() or not matcher.try_consume_tokens([ids[bytes([byte])]]):
            break
        whole = n if matcher.is_accepting() else whole
    return whole


@pytest.mark.parametrize("choice", ["required", "auto"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_9_09_what_a_template_writes_is_taken(llm, name, choice):
    form = template(name).answer_format
    for arguments in ARGUMENTS:
        if name == "python":
            arguments = {**arguments, "text": "Rome", "yes": None, "list": [], "point": {"x": 1}}
            arguments.pop("yes")
        calls = [call("get_weather", arguments), call("run-code.v2", ARGUMENTS[0], "call00002")]
        calls = calls[: 1 + form.calls[0].several]
        text = written(template(name), {"content": "", "tool_calls": calls}).strip("\n")
        text = text.removeprefix(" ") if name == "word and list" else text
        end = len(text.encode()) - len(re.search(r"\s*(<\|end\|>|<\|call\|>)?$", text)[0].encode())
        assert takes(llm, grammar(form, choice), text) >= end
        if choice == "required":
            assert takes(llm, grammar(form, choice), "Hello.") < 0
            assert takes(llm, grammar(form, choice), text.replace("get_weather", "get_wether")) < 0
        elif name != "messages":
            assert takes(llm, grammar(form, choice), "Hello.") == 6


@pytest.mark.parametrize("name", ["object", "header", "tagged", "bare", "python", "nested"])
def test_one_call_where_no_more_are_wanted(llm, name):
    form = template(name).answer_format
    calls = [call("get_weather", ARGUMENTS[0]), call("get_weather", ARGUMENTS[0], "call00002")]
    one, two = (written(template(name), {"content": "", "tool_calls": calls[:n]}) for n in (1, 2))
    only_one = grammar(form, "required", parallel=False)
    assert takes(llm, only_one, one.lstrip("\n")) > 0 and takes(llm, only_one, two.lstrip("\n")) <= len(one)


def test_thoughts_come_first(llm):
    form = template("wrapped").answer_format
    call = '<|act|>[{"name": "get_weather", "arguments": {"text": "", "n": 1}}]<|/act|>'
    assert takes(llm, grammar(form, "required"), f"<|thought|>Hm.<|/thought|>{call}") > 0
    assert takes(llm, grammar(form, "required", closing="<|/thought|>"), f"Hm.<|/thought|>\n{call}") > 0
    assert takes(llm, grammar(form, "required", closing="<|/thought|>"), call) < 0


def test_control_tokens_are_tokens_in_grammars():
    form = ChatTemplate(TEMPLATES["header, counted"], {}).answer_format
    text = grammar(form, "required", special={"<|call|>": 7, "<|/call|>": 8, "<|/section|>": 9}, ends=["<|/section|>"])
    assert "<[7]>" in text and "<[8]>" in text and "<[9]>" not in text and '"<|section|>"' in text


@needs(VOCABULARY)
def test_9_09_markers_that_are_control_tokens():
    source = TEMPLATES["header, counted"].replace("<|call|>", "<|im_start|>").replace("<|end|>", "<|im_end|>")
    with open_gguf(VOCABULARY) as file:
        tokenizer = Tokenizer.from_metadata(file.metadata)
        templates = ChatTemplates({**file.metadata, "tokenizer.chat_template": source}, tokenizer)
        prompt = templates.render([{"role": "user", "content": "<|im_start|>"}], tools=TOOLS)
        reading = templates.reader(prompt, TOOLS, tool_choice="required")
        (start,) = tokenizer.encode("<|im_start|>", parse_special=True)
        assert reading.shown_ids == {start}
        rest = 'functions.get_weather:0<|args|>{"text": "Rome", "n": 3}<|/call|><|/section|>'
        ids = [*tokenizer.encode("<|section|>"), start, *tokenizer.encode(rest)]
        matcher = Constraint(LLMatcher.grammar_from_lark(reading.grammar), tokenizer)._matcher
        assert matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
        assert not matcher.deep_copy().try_consume_tokens(tokenizer.encode("<|im_start|>"))
        decoder = tokenizer.decoder(reading.shown_ids)
        message = Answer(event for id in ids for event in reading.parser.push(decoder.push(id))).message
        assert message["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"text": "Rome", "n": 3}'}
        assert tokenizer.decoder(special=False).push(start) == ""


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("seed", range(3))
def test_a_random_model_calls_tools(llm, choice, seed):
    message = llm.chat(
        [{"role": "user", "content": "Hi"}], tools=TOOLS, tool_choice=choice, parallel=False, seed=seed, max_tokens=2000
    )
    (made,) = message["tool_calls"]
    jsonschema.validate(json.loads(made["function"]["arguments"]), SCHEMA)
    names = {tool["function"]["name"] for tool in TOOLS} if choice == "required" else {"get_weather"}
    assert message["content"] == "" and made["function"]["name"] in names and made["id"].startswith("call_")


def test_a_conversation_with_calls(llm):
    talk = Conversation(llm, tools=TOOLS, tool_choice="required", parallel=False)
    assert "".join(span.text for span in talk.ask("Hi", seed=1, max_tokens=2000)) == ""
    assert len(talk.messages[-1]["tool_calls"]) == 1
    with pytest.raises(ConversationError, match="1 calls, and here are 2"):
        talk.returned(["sunny", "rain"])
    reply = talk.returned(["sunny"], seed=1, max_tokens=2000)
    assert "<tool_response>\nsunny\n</tool_response>" in llm.tokenizer.decode(reply.generation.prompt)
    list(reply)
    assert [message["role"] for message in talk.messages] == ["user", "assistant", "tool", "assistant"]


def test_auto_is_free_and_strict_is_held(llm):
    templates, strict = llm.templates, [{**TOOLS[0], "function": {**TOOLS[0]["function"], "strict": True}}]
    assert templates.reader("", TOOLS).grammar is None
    assert templates.reader("", TOOLS, tool_choice="none").grammar is None
    assert takes(llm, templates.reader("", strict).grammar, 'Hello <tool_call>\n{"name": "x"') == len(
        "Hello <tool_call"
    )


def test_a_schema_that_no_grammar_can_express(llm):
    tools = [{"function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}}]
    with pytest.raises(GrammarError, match="not"):
        llm.templates.reader("", tools, tool_choice="required")


def test_smollm2_calls_tools(smollm2):
    with LLM(smollm2, n_ctx=1024) as llm:
        for seed in range(2):
            messages = [{"role": "user", "content": "What is the weather in Rome?"}]
            message = llm.chat(messages, tools=TOOLS, tool_choice="required", parallel=False, seed=seed, max_tokens=200)
            assert message["content"] == ""
            jsonschema.validate(json.loads(message["tool_calls"][0]["function"]["arguments"]), SCHEMA)
