"""The Python API and the generate loop, on small random models and on SmolLM2."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gguf_runtime
from gguf_runtime import LLM
from gguf_runtime.backends.gpus import gpu_present
from gguf_runtime.chat.template import ChatError
from gguf_runtime.chat.templates import ChatTemplates
from gguf_runtime.engine import ContextFull
from tests.make_model import BOS
from tests.paths import SHARED, needs

GOLDEN = SHARED / "golden" / "smollm2.json"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def llm(model):
    with LLM(model) as llm:
        yield llm


@pytest.fixture(scope="module")
def chat_llm(chat_model):
    with LLM(chat_model) as llm:
        yield llm


def test_import_is_lazy():
    assert gguf_runtime.LLM is LLM
    with pytest.raises(AttributeError):
        _ = gguf_runtime.nothing


def test_greedy_tokens_are_the_likeliest_of_the_logits(llm):
    answer = llm.stream("the rain", max_tokens=5, temperature=0, ignore_eos=True)
    text = "".join(answer)
    ids = answer.prompt + answer.tokens
    likeliest = llm.logits(ids)[len(answer.prompt) - 1 : -1].argmax(axis=1)
    assert answer.tokens == likeliest.tolist()
    assert text == llm.tokenizer.decode(answer.tokens)
    assert answer.stop_reason == "length" and answer.n_steps == 4


def test_logits(llm):
    ids = llm.tokenize("the rain in spain")
    logits = llm.logits(ids)
    assert logits.shape == (len(ids), llm.engine.n_vocab) and logits.dtype == np.float32
    assert np.array_equal(logits, llm.logits("the rain in spain"))


def test_generate_is_stream_joined_and_a_seed_repeats_it(llm):
    options = {"max_tokens": 40, "seed": 3, "ignore_eos": True}
    text = llm.generate("Once", **options)
    assert text == "".join(llm.stream("Once", **options)) == llm.generate(llm.tokenize("Once"), **options)
    assert text != llm.generate("Once", **{**options, "seed": 4})


def test_no_tokens_wanted(llm):
    answer = llm.stream("Once", max_tokens=0)
    assert "".join(answer) == "" and answer.stop_reason == "length" and answer.n_steps == 0


def test_the_model_can_end_and_can_be_kept_from_it(llm):
    eos = llm.tokenizer.eos_id
    options = {"max_tokens": 9, "logit_bias": {eos: 1e9}, "temperature": 0}
    answer = llm.stream("Once", **options)
    assert "".join(answer) == "" and answer.tokens == [] and answer.stop_reason == "end"
    kept = llm.stream("Once", ignore_eos=True, **options)
    list(kept)
    assert len(kept.tokens) == 9 and eos not in kept.tokens


def test_stop_strings_end_the_answer_before_them(llm):
    options = {"max_tokens": 60, "seed": 5, "ignore_eos": True}
    text = llm.generate("Once", **options)
    for stop in (text[10:13], text[10:40], text[20]):
        answer = llm.stream("Once", stop=["never in it", stop], **options)
        assert "".join(answer) == text[: text.index(stop)] and answer.stop_reason == "stop"
    assert llm.generate("Once", stop="never in it", **options) == text  # what was held back comes at the end
    assert llm.generate("Once", stop=text[-3:] + "and more", **options) == text


def test_a_full_context_is_told(model):
    with LLM(model, n_ctx=16) as llm:
        answer = llm.stream("Once upon", ignore_eos=True)
        list(answer)
        # the last token is drawn from the last place's logits and needs no place of its own
        assert answer.stop_reason == "context" and len(answer.prompt) + len(answer.tokens) == 17
        with pytest.raises(ContextFull, match="room for 16"):
            llm.generate("Once upon a time " * 9)


def test_a_full_context_can_forget_and_go_on(model):
    with LLM(model, n_ctx=64) as llm:
        options = {"max_tokens": 200, "ignore_eos": True, "seed": 1}
        answer = llm.stream("Once upon a time", context_shift=True, **options)
        text = "".join(answer)
        assert answer.stop_reason == "length" and len(answer.tokens) == 200
        assert text == llm.generate("Once upon a time", context_shift=True, lookup=False, **options)
        # until the context is full, nothing is different
        assert text.startswith(llm.generate("Once upon a time", **options))


def test_what_was_computed_is_gone_on_from(model):
    with LLM(model) as llm:
        options = {"max_tokens": 5, "temperature": 0, "ignore_eos": True}
        first = llm.stream("The rain in spain", **options)
        list(first)
        again = llm.stream("The rain in the mountains", **options)
        text = "".join(again)
        assert first.n_reused == 0
        assert again.n_reused == len(os.path.commonprefix([first.prompt, again.prompt])) > 5
        assert text == llm.generate("The rain in the mountains", cache_prompt=False, **options)
        alone = llm.stream("The rain in the mountains", cache_prompt=False, **options)
        assert "".join(alone) == text and alone.n_reused == 0


def test_answers_made_together_are_those_made_alone(llm):
    prompts = ["Once", "The rain in spain " * 3, "A", "mountain", "Tea for two"] * 3
    options = [{"max_tokens": 80 - 5 * i, "seed": i, "ignore_eos": True, "lookup": bool(i % 2)} for i in range(15)]
    pairs = list(zip(prompts, options, strict=True))
    answers = [llm.stream(prompt, **option) for prompt, option in pairs]
    for answer in answers:
        answer.begin()
    while llm.scheduler.step():
        for answer in answers:
            answer.read()
    assert all(answer.done for answer in answers)
    assert [answer.text for answer in answers] == [llm.generate(prompt, **option) for prompt, option in pairs]


def test_answers_in_several_threads_are_those_made_alone(llm):
    prompts = ["Once", "The rain in spain", "A mountain", "Tea for two"]
    options = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}
    with ThreadPoolExecutor(4) as threads:
        texts = list(threads.map(lambda prompt: llm.generate(prompt, **options), prompts))
    assert texts == [llm.generate(prompt, **options) for prompt in prompts]


def test_an_answer_waits_for_its_reader_and_does_not_hold_up_others(llm):
    options = {"max_tokens": 300, "temperature": 0, "ignore_eos": True}
    slow, other = llm.stream("Once", **options), llm.stream("A mountain", **options)
    text = next(slow)
    list(other)
    assert other.n_tokens == 300 and 60 < slow.n_tokens < 130
    assert text + "".join(slow) == llm.generate("Once", **options)


def test_an_answer_that_nobody_holds_is_given_up(model):
    with LLM(model) as llm:
        next(llm.stream("Once", ignore_eos=True))
        assert not llm.scheduler.step()
        assert llm.engine.pages.n_held == 0


def test_an_answer_can_be_given_up(llm):
    answer = llm.stream("Once", ignore_eos=True)
    next(answer)
    answer.close()
    assert list(answer) == []


def test_an_empty_prompt(llm):
    with pytest.raises(ValueError, match="empty"):
        llm.generate("")


def test_chat_renders_the_template_and_has_one_bos(chat_llm):
    assert chat_llm.render(CHAT) == f"{BOS}[system] Be brief.\n[user] Hi\n[assistant]"
    ids = chat_llm.prompt_tokens(CHAT)
    bos = chat_llm.tokenizer.bos_id
    assert ids[0] == bos and ids.count(bos) == 1
    assert chat_llm.prompt_tokens("Hi")[0] == bos  # plain text gets one, too
    assert chat_llm.chat(CHAT, max_tokens=8, seed=1) == chat_llm.generate(CHAT, max_tokens=8, seed=1)


def test_chat_without_a_template(llm):
    with pytest.raises(ChatError, match="no chat template"):
        llm.chat(CHAT)
    for nothing in ("", " \n", 3):
        assert not ChatTemplates({"tokenizer.chat_template": nothing}, llm.tokenizer).exist


def test_layers_for_a_gpu_that_is_not_there(model):
    with pytest.warns(RuntimeWarning, match="GPU|CuPy"), LLM(model, n_gpu_layers=5):
        pass


@needs(GOLDEN)
def test_prompts_of_smollm2_as_in_llama_cpp(smollm2):
    golden = json.loads(GOLDEN.read_text("utf-8"))["smollm2-135m-q4_1"]
    with LLM(smollm2) as llm:
        for case in golden["chats"]:
            assert llm.render(case["messages"]) == case["rendered"]
            assert llm.prompt_tokens(case["messages"]) == case["prompt_tokens"]
        for case in golden["completions"]:
            assert llm.prompt_tokens(case["prompt"]) == case["prompt_tokens"]


def test_smollm2_answers(smollm2):
    with LLM(smollm2, n_ctx=512) as llm:
        assert "Tokyo" in llm.chat([{"role": "user", "content": "What is the capital of Japan?"}], temperature=0)


@pytest.mark.skipif(gpu_present(), reason="there is a GPU")
def test_a_gpu_that_is_named_and_not_there_is_told(model):
    with pytest.warns(RuntimeWarning, match="all layers run on the CPU"):
        LLM(model, n_gpu_layers=0, override_tensors=[("ffn_.*", "CUDA0")]).close()
    for asked in ({"main_gpu": 0}, {"tensor_split": (1, 1)}):
        with pytest.warns(RuntimeWarning, match="all layers run on the CPU"):
            LLM(model, **asked).close()
        LLM(model, n_gpu_layers=0, **asked).close()
    LLM(model, override_tensors=[("ffn_.*", "CPU")]).close()  # as it is
