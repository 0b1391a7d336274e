"""Conversations: what is said, what is computed of it, and what a model thinks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_runtime import LLM
from gguf_runtime.chat.parser import AnswerParser
from gguf_runtime.chat.reasoning import THINKING, Span, spans
from gguf_runtime.conversation import Conversation, ConversationError, Reply
from gguf_runtime.engine import ContextFull
from tests.make_model import write_model

OPTIONS = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}


TEMPLATE = (
    "{% for m in messages %}{{ bos_token }}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tmp_path_factory.mktemp("talk") / "talk.gguf"
    extra = {"tokenizer.chat_template": TEMPLATE, "tokenizer.ggml.add_bos_token": True}
    write_model(path, n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=128, n_ctx=256, **extra)
    with LLM(path) as llm:
        yield llm


def say(reply: Reply) -> str:
    return "".join(span.text for span in reply)


def fresh(llm: LLM, reply: Reply) -> str:
    """What the model answers to the same prompt with nothing computed before."""
    return llm.generate(reply.generation.prompt, cache_prompt=False, **OPTIONS)


def test_only_what_is_new_is_computed(llm: LLM) -> None:
    talk = Conversation(llm, system="Be brief.")
    first = talk.ask("Hello", **OPTIONS)
    answer = say(first)
    assert first.generation.n_reused == 0
    assert talk.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": answer},
    ]
    second = talk.ask("And then?", **OPTIONS)
    assert say(second) == fresh(llm, second)
    # the first prompt and answer are kept, but for its last token, which was drawn and not computed
    assert second.generation.n_reused == len(first.generation.prompt) + len(first.generation.tokens) - 1


def test_another_answer_and_taking_back(llm: LLM) -> None:
    talk = Conversation(llm)
    say(talk.ask("Hello", **OPTIONS))
    say(talk.ask("What now?", **OPTIONS))
    again = talk.again(**OPTIONS)
    text = say(again)
    assert len(talk.messages) == 4 and talk.messages[-1]["content"] == text
    assert again.generation.n_reused == len(again.generation.prompt) - 1
    assert talk.undo() == "What now?"
    assert len(talk.messages) == 2
    other = talk.ask("Why so?", **OPTIONS)
    assert say(other) == fresh(llm, other)
    assert other.generation.n_reused > len(other.generation.prompt) // 2
    talk.clear()
    assert talk.messages == []
    for action in (talk.undo, talk.again):
        with pytest.raises(ConversationError):
            action()


def test_a_stopped_answer_stays(llm: LLM) -> None:
    talk = Conversation(llm)
    reply = talk.ask("Hello", **{**OPTIONS, "max_tokens": None})
    text = next(reply).text + next(reply).text
    reply.close()
    assert list(reply) == [] and talk.messages[-1] == {"role": "assistant", "content": text}
    following = talk.ask("Go on", **OPTIONS)
    assert say(following) == fresh(llm, following)
    assert following.generation.n_reused >= len(reply.generation.prompt)


def test_the_system_message_can_change(llm: LLM) -> None:
    talk = Conversation(llm, system="Be brief.")
    say(talk.ask("Hello", **OPTIONS))
    talk.system = "Be long."
    assert talk.system == "Be long." and len(talk.messages) == 3
    reply = talk.ask("More", **OPTIONS)
    assert say(reply) == fresh(llm, reply) and "Be long." in llm.tokenizer.decode(reply.generation.prompt)
    talk.system = ""
    assert talk.system == "" and talk.messages[0]["role"] == "user"


def test_a_full_context_is_told_and_changes_nothing(llm: LLM) -> None:
    talk = Conversation(llm)
    say(talk.ask("Hello", **OPTIONS))
    before = list(talk.messages)
    with pytest.raises(ContextFull):
        talk.ask("word " * 300, **OPTIONS)
    assert talk.messages == before
    say(talk.ask("Short", **OPTIONS))


def test_the_oldest_exchanges_are_forgotten_where_asked(llm: LLM) -> None:
    talk = Conversation(llm, system="Be brief.", shift=True)
    for i in range(12):
        reply = talk.ask(f"This is message number {i}.", **OPTIONS)
        say(reply)
        text = llm.tokenizer.decode(reply.generation.prompt)
        assert f"number {i}." in text and "[system] Be brief." in text
    assert len(talk.messages) == 25 and talk.n_forgotten > 0
    assert "number 0." not in text and "number 10." in text


def test_an_answer_longer_than_the_context(llm: LLM) -> None:
    talk = Conversation(llm, shift=True)
    reply = talk.ask("Go", max_tokens=600, ignore_eos=True, seed=1)
    say(reply)
    assert len(reply.generation.tokens) == 600 and reply.generation.stop_reason == "length"
    assert talk.n_tokens <= llm.engine.n_ctx


THOUGHT = {
    "<think>\nhm\n</think>\n\nHi": [("reasoning", "hm"), ("answer", "Hi")],
    " <think>a < b</think>Hi": [("reasoning", "a < b"), ("answer", "Hi")],
    "[THINK]hm[/THINK]Hi": [("reasoning", "hm"), ("answer", "Hi")],
    "<|channel>thought\nhm<channel|>Hi": [("reasoning", "hm"), ("answer", "Hi")],
    "\n <thin>Hi": [("answer", "\n <thin>Hi")],
    "Hi <think>x</think>": [("answer", "Hi <think>x</think>")],
    "<think>hm": [("reasoning", "hm")],
    "<thi": [("answer", "<thi")],
    "": [],
}


def split(pieces: list[str], prompt: str = "") -> list[Span]:
    """The spans, joined where they are of one kind."""
    parser = AnswerParser(THINKING, prompt=prompt)
    joined: list[Span] = []
    for span in spans([event for piece in pieces for event in parser.push(piece)] + parser.flush()):
        if joined and joined[-1].kind == span.kind:
            span = Span(span.kind, joined.pop().text + span.text)
        joined.append(span)
    return joined


@pytest.mark.parametrize("text", THOUGHT)
def test_reasoning_is_told_from_the_answer(text: str) -> None:
    assert split([text]) == split(list(text)) == THOUGHT[text]


def test_reasoning_that_the_prompt_has_begun() -> None:
    assert split(["hm\n", "</thi", "nk>\n\nHi"], "<|assistant|><think>\n") == [("reasoning", "hm"), ("answer", "Hi")]


@given(st.text(alphabet="ab<>/think\n ", max_size=50), st.lists(st.integers(0, 50), max_size=8))
def test_pieces_make_no_difference(text: str, cuts: list[int]) -> None:
    text = "<think>" + text
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert split([text[a:b] for a, b in zip(places, places[1:], strict=False)]) == split([text])


def test_reasoning_is_not_sent_back(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think>{% endif %}"
    )
    path = tmp_path / "thinker.gguf"
    write_model(path, n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64, **{"tokenizer.chat_template": template})
    with LLM(path) as llm:
        talk = Conversation(llm)
        reply = talk.ask("Hello", **OPTIONS)
        assert {span.kind for span in reply} == {"reasoning"}
        assert talk.messages[-1]["content"] == "" and talk.messages[-1]["reasoning_content"]
        text = llm.tokenizer.decode(talk.ask("More", **OPTIONS).generation.prompt)
        assert text == "[user] Hello\n[assistant] \n[user] More\n[assistant]<think>"


def test_a_long_conversation_of_smollm2(smollm2: Path) -> None:
    with LLM(smollm2, n_ctx=2048) as llm:
        talk = Conversation(llm, system="You are a helpful assistant.")
        say(talk.ask("Name three fruits.", max_tokens=40, temperature=0.8, seed=1))
        second = talk.ask("Which of them is yellow?", max_tokens=10, seed=1)
        say(second)
        n_said = len(second.generation.prompt) - second.generation.n_reused
        assert n_said < 25  # the end of the answer, the message, and what the template puts around it
