"""One LLM in several threads, in a child made by fork, and closed while it is at work."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gguf_runtime import LLM
from gguf_runtime.engine import EngineError
from tests.make_model import write_model

PROMPTS = ["the rain in spain", "a", "once upon a time there was " * 12, "mountain", "tea for two and two for tea"]
GREEDY = {"temperature": 0, "max_tokens": 30, "ignore_eos": True, "exact": True}

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("concurrency") / "model.gguf"
    write_model(path, types="Q4_0", n_ctx=2048)
    return path


@pytest.fixture
def llm(path: Path) -> Iterator[LLM]:
    with LLM(path, n_threads=2) as llm:
        yield llm


def test_threads_get_the_answers_that_each_would_get_alone(llm: LLM) -> None:
    alone = [llm.generate(prompt, **GREEDY) for prompt in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as threads:
        for _ in range(4):
            assert list(threads.map(lambda prompt: llm.generate(prompt, **GREEDY), PROMPTS)) == alone
        logits = llm.logits(PROMPTS[0])
        assert all((other == logits).all() for other in threads.map(llm.logits, PROMPTS[:1] * 20))


def test_threads_take_turns(llm: LLM) -> None:
    long = llm.stream("once", temperature=0, max_tokens=1500, ignore_eos=True, lookup=False)
    with ThreadPoolExecutor(1) as threads:
        whole = threads.submit("".join, long)
        while not long.tokens:
            pass
        for _ in range(3):
            llm.generate("the rain", temperature=0, max_tokens=5, lookup=False)
        assert not whole.done()
        llm.close()
        assert isinstance(whole.exception(), EngineError)


def test_threads_share_one_answer(llm: LLM) -> None:
    alone = llm.generate("once", **GREEDY)
    answer = llm.stream("once", **GREEDY)
    with ThreadPoolExecutor(3) as threads:
        pieces = [piece for part in threads.map(list, [answer] * 3) for piece in part]
    assert answer.text == alone and sorted("".join(pieces)) == sorted(alone)


def test_a_draft_model_helps_several_answers_at_once(path: Path) -> None:
    with LLM(path, draft=path, n_threads=2) as llm:
        alone = [llm.generate(prompt, **GREEDY) for prompt in PROMPTS]
        with ThreadPoolExecutor(len(PROMPTS)) as threads:
            assert list(threads.map(lambda prompt: llm.generate(prompt, **GREEDY), PROMPTS)) == alone


def test_closing_ends_the_answers_of_other_threads(path: Path) -> None:
    for _ in range(5):
        llm = LLM(path, n_threads=2)
        answers = [llm.stream(prompt, temperature=0, ignore_eos=True) for prompt in PROMPTS]
        with ThreadPoolExecutor(len(PROMPTS)) as threads:
            running = [threads.submit("".join, answer) for answer in answers]
            while not answers[0].tokens:
                pass
            llm.close()
            errors = [future.exception() for future in running]
        assert all(isinstance(error, EngineError) and "closed" in str(error) for error in errors)
        with pytest.raises(EngineError, match="closed"):
            llm.logits("the rain")
        llm.close()  # again


def test_an_unfinished_answer_outlives_its_model(path: Path) -> None:
    llm = LLM(path, n_threads=2)
    answer = llm.stream("once", **GREEDY)
    next(answer)
    llm.close()
    with pytest.raises(EngineError, match="closed"):
        next(answer)
    answer.close()
    assert list(answer) == []


def in_child(work: Callable[[], str]) -> str:
    """What the work gives in a child made by fork, which has a minute."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            signal.alarm(60)
            os.write(writer, work().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_made_by_fork_goes_on(llm: LLM) -> None:
    alone = llm.generate("the rain in spain", **GREEDY)
    assert in_child(lambda: llm.generate("the rain in spain", **GREEDY)) == alone
    grandchild = in_child(lambda: in_child(lambda: llm.generate("the rain in spain", **GREEDY)))
    assert grandchild == alone == llm.generate("the rain in spain", **GREEDY)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_goes_on_while_its_parent_is_at_work(llm: LLM) -> None:
    alone = llm.generate("the rain in spain", **GREEDY)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            llm.generate("once upon a time", **GREEDY)

    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(work)
        try:
            for _ in range(5):
                assert in_child(lambda: llm.generate("the rain in spain", **GREEDY)) == alone
        finally:
            stop.set()
        busy.result()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_closes_what_its_parent_goes_on_with(llm: LLM) -> None:
    alone = llm.generate("the rain in spain", **GREEDY)

    def close() -> str:
        llm.close()
        return "closed"

    assert in_child(close) == "closed"
    assert llm.generate("the rain in spain", **GREEDY) == alone
