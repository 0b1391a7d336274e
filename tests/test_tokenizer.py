"""Tokenizers against what llama.cpp and transformers gave, and against the properties that any must have."""

from __future__ import annotations

import itertools
import json
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_runtime.loader import GGUFError, Value, open_gguf
from gguf_runtime.tokenizer import Tokenizer, TokenizerError, split
from gguf_runtime.tokenizer.unicode_table import VERSION
from tests.make_model import BOS, EOS, add_key, make_vocabulary
from tests.paths import SHARED, needs

VOCABULARIES = SHARED / "conformance" / "tokenizers"
NAMES = ["deepseek-llm", "gpt-2", "llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "starcoder"]
GOLDEN = SHARED / "golden" / "smollm2.json"
_TYPES = gguf.TokenType


def read_metadata(path: Path, keys: Mapping[str, Any]) -> Mapping[str, Value]:
    """Metadata as a file has them. Keys are given without tokenizer.ggml., those that are None are left out."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        if value is not None:
            add_key(writer, key if "." in key else f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return open_gguf(path).metadata


def bpe_keys(*special: tuple[str, int], **changes: Any) -> dict[str, Any]:
    """A byte-level BPE vocabulary, with these special tokens, each with its type, at its end."""
    tokens, types, merges = make_vocabulary(400)
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens + [text for text, _ in special],
        "token_type": types + [int(kind) for _, kind in special],
        "merges": merges,
        "bos_token_id": tokens.index(BOS),
        "eos_token_id": tokens.index(EOS),
        **changes,
    }


def spm_keys(*special: tuple[str, int], **changes: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary: <unk>, <s>, </s>, the bytes, some words."""
    words = ["▁", *"abcdehlorwt", "▁▁", "▁h", "he", "ll", "▁he", "llo", "▁hello", "▁w", "or", "▁wor", "ld", "▁world"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words, *(text for text, _ in special)]
    types = [_TYPES.UNKNOWN, _TYPES.CONTROL, _TYPES.CONTROL] + [_TYPES.BYTE] * 256 + [_TYPES.NORMAL] * len(words)
    return {
        "model": "llama",
        "tokens": tokens,
        "token_type": [int(kind) for kind in types] + [int(kind) for _, kind in special],
        "scores": [0.0] * 259 + [float(-i) for i in range(len(words))] + [0.0] * len(special),
        **changes,
    }


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a tokenizer of keys."""
    folder = tmp_path_factory.mktemp("vocabularies")
    numbers = itertools.count()
    return lambda keys: Tokenizer.from_metadata(read_metadata(folder / f"{next(numbers)}.gguf", keys))


@pytest.fixture(scope="module")
def bpe(make: Any) -> Tokenizer:
    return make(bpe_keys())


@pytest.fixture(scope="module")
def spm(make: Any) -> Tokenizer:
    return make(spm_keys())


@needs(VOCABULARIES)
@pytest.mark.parametrize("name", NAMES)
def test_conformance(name: str) -> None:
    path = VOCABULARIES / f"{name}.gguf"
    tokenizer = Tokenizer.from_metadata(open_gguf(path).metadata)
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = [[int(id) for id in line.split()] for line in Path(f"{path}.out").read_text().split("\n")]
    for text, ids in zip(texts, expected, strict=False):
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.decode(ids) == text


@needs(VOCABULARIES)
def test_conformance_of_wordpiece() -> None:
    path = VOCABULARIES / "bert-bge.gguf"
    tokenizer = Tokenizer.from_metadata(open_gguf(path).metadata)
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = [[int(id) for id in line.split()] for line in Path(f"{path}.out").read_text().split("\n")]
    for text, ids in zip(texts, expected, strict=False):
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.encode(text) == [101, *ids, 102]
    assert tokenizer.decode(tokenizer.encode("Hello World", add_special=False)) == "hello world"


RECORDED = json.loads(Path(__file__).with_name("recorded").joinpath("tokenizers.json").read_text("utf-8"))


@pytest.mark.parametrize("name", [name for name in RECORDED if name != "texts"])
def test_small_vocabularies_as_in_llama_cpp(make: Any, name: str) -> None:
    """Recorded from llama.cpp (llama-cpp-python 0.3.36); the Unigram ones are SentencePiece's own training."""
    keys = {f"tokenizer.ggml.{key}": value for key, value in RECORDED[name]["keys"].items()}
    charsmap = keys.pop("tokenizer.ggml.precompiled_charsmap", None)
    tokenizer = make(keys | ({"precompiled_charsmap": bytes(charsmap)} if charsmap else {}))
    for text, ids in zip(RECORDED["texts"], RECORDED[name]["ids"], strict=True):
        assert tokenizer.encode(text, add_special=False) == ids, text
        if name in ("rwkv", "plamo2"):
            assert tokenizer.decode(ids) == text


def test_a_damaged_table_of_replacements_is_said(make: Any) -> None:
    keys = dict(RECORDED["unigram"]["keys"])
    for table in ([1, 2, 3], [4, 0, 0, 0, 255, 255, 255, 255, 0], [255] * 40):
        with pytest.raises(TokenizerError, match="precompiled_charsmap is damaged"):
            make(keys | {"precompiled_charsmap": bytes(table)}).encode("abc")


@needs(VOCABULARIES)
def test_letters_that_are_newer_than_python(make: Any) -> None:
    """Ids that llama.cpp gives: U+31976 came with Unicode 15.0, U+2FFC and U+2EBF0 with 15.1."""
    tokenizer = Tokenizer.from_metadata(open_gguf(VOCABULARIES / "llama-bpe.gguf").metadata)
    assert tokenizer.encode("\U00031976're", add_special=False) == [172, 109, 98, 114, 2351]
    text = "a\U00031976b \u2ffc're \U0002ebf0're x"
    expected = [64, 172, 109, 98, 114, 65, 2928, 123, 120, 6, 265, 109697, 106, 107, 108, 2351, 865]
    assert tokenizer.encode(text, add_special=False) == expected


def test_classes_of_characters_are_those_of_unicode() -> None:
    """For what this Python's Unicode has too; the version of the table, exactly."""
    names = {stand_in: letter for letter, stand_in in split._STAND_INS.items()} | {split._HAN: "L"}
    same = unicodedata.unidata_version == VERSION
    for code in range(0x80, 0x110000):
        category = unicodedata.category(chr(code))
        if category != "Cn" or same:
            expected = category[0] if category[0] in "LNMPS" else "other"
            assert names.get(split._class_of(chr(code)), "other") == expected, hex(code)


@needs(GOLDEN)
def test_prompts_of_smollm2(smollm2: Path) -> None:
    tokenizer = Tokenizer.from_metadata(open_gguf(smollm2).metadata)
    for recorded in json.loads(GOLDEN.read_text()).values():
        for case in recorded["completions"]:
            assert tokenizer.encode(case["prompt"], parse_special=True) == case["prompt_tokens"]
        for case in recorded["chats"]:
            assert tokenizer.encode(case["rendered"], parse_special=True) == case["prompt_tokens"]


@given(text=st.text())
@settings(max_examples=300, deadline=None)
def test_bpe_gives_back_any_text(bpe: Tokenizer, text: str) -> None:
    assert bpe.decode(bpe.encode(text, add_special=False)) == text


@given(text=st.text(st.one_of(st.sampled_from(" helowrd\n"), st.characters(exclude_categories=["Cs"]))))
@settings(max_examples=300, deadline=None)
def test_spm_gives_back_any_text(spm: Tokenizer, text: str) -> None:
    text = text.replace("▁", " ")  # these two are one to SentencePiece
    assert spm.decode(spm.encode(text, add_special=False)) == text


def test_lone_surrogates_become_the_replacement_character(make: Any) -> None:
    for keys in (bpe_keys(), spm_keys()):
        tokenizer = make(keys)
        assert tokenizer.decode(tokenizer.encode("a\ud800b\udc80", add_special=False)) == "a\ufffdb\ufffd"


def test_long_runs_of_one_character(make: Any) -> None:
    for keys in (bpe_keys(), spm_keys()):
        tokenizer = make(keys)
        for text in ("e" * 50_000, " " * 50_000, "7" * 50_000, "中" * 20_000):
            assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


def test_bos_and_eos(make: Any) -> None:
    tokenizer = make(bpe_keys())
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    assert (tokenizer.piece(bos), tokenizer.piece(eos)) == (BOS, EOS)
    assert tokenizer.special_ids == {bos, eos} and tokenizer.eog_ids == {eos}
    body = tokenizer.encode("hello", add_special=False)
    assert tokenizer.encode("hello") == body
    tokenizer = make(bpe_keys(add_bos_token=True, add_eos_token=True))
    assert tokenizer.add_bos and tokenizer.add_eos
    assert tokenizer.encode("hello") == [bos, *body, eos]
    assert tokenizer.encode("") == [bos, eos]
    assert tokenizer.decode([bos, *body, eos]) == f"{BOS}hello{EOS}"
    assert tokenizer.decode([bos, *body, eos], skip_special=True) == "hello"
    # with the names that llama.cpp gives BOS to by itself
    assert make(bpe_keys(pre="llama-bpe")).encode("hello")[0] == bos
    assert bos not in make(bpe_keys(pre="llama-bpe", add_bos_token=False)).encode("hello")


def test_special_tokens_that_the_file_does_not_name(make: Any) -> None:
    tokenizer = make(bpe_keys(bos_token_id=None, eos_token_id=None))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (11, 11)
    tokenizer = make(bpe_keys(bos_token_id=1 << 20, eos_token_id=400))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (11, 11)
    tokenizer = make(spm_keys())
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2) and tokenizer.add_bos and not tokenizer.add_eos
    few = make({"model": "gpt2", "pre": "gpt-2", "tokens": ["a"], "merges": ["a a"], "add_bos_token": True})
    assert few.bos_id is None and few.encode("aa") == [0, 0]


def test_end_of_generation(make: Any) -> None:
    control, normal = _TYPES.CONTROL, _TYPES.NORMAL
    tokenizer = make(bpe_keys(("<|im_end|>", control), ("<|eot_id|>", normal), ("<|other|>", control)))
    pieces = {tokenizer.piece(id) for id in tokenizer.eog_ids}
    assert pieces == {EOS, "<|im_end|>", "<|eot_id|>"}
    assert "<|eot_id|>" in {tokenizer.piece(id) for id in tokenizer.special_ids}  # whatever its type says
    harmony = make(bpe_keys(("<|end|>", control), ("<|return|>", control), ("<|call|>", control)))
    assert {harmony.piece(id) for id in harmony.eog_ids} == {EOS, "<|return|>", "<|call|>"}
    named = make(bpe_keys(("<|stop|>", control), eot_token_id=400))
    assert "<|stop|>" in {named.piece(id) for id in named.eog_ids}


def test_special_tokens_in_text(make: Any) -> None:
    special = [("<|a|>", _TYPES.CONTROL), ("<|a|>b", _TYPES.CONTROL), ("##", _TYPES.USER_DEFINED)]
    tokenizer = make(bpe_keys(*special))
    a, ab, user = range(400, 403)
    x, b = tokenizer.encode("x", add_special=False)[0], tokenizer.encode("b", add_special=False)[0]
    assert tokenizer.encode("x<|a|>x", parse_special=True) == [x, a, x]
    assert tokenizer.encode("<|a|><|a|>bb", parse_special=True) == [a, ab, b]  # the longer one first
    assert a not in tokenizer.encode("x<|a|>x")
    assert tokenizer.encode("x##x") == [x, user, x]  # user-defined: always
    assert tokenizer.token_bytes(a) == b"<|a|>" and tokenizer.token_bytes(user) == b"##"
    assert tokenizer.decode([x, a, user], skip_special=True) == "x##"


def test_longer_special_tokens_win_wherever_they_are(make: Any) -> None:
    tokenizer = make(bpe_keys(("bcde", _TYPES.CONTROL), ("abc", _TYPES.CONTROL)))
    a = tokenizer.encode("a")[0]
    assert tokenizer.encode("abcde", parse_special=True) == [a, 400]


def test_space_before_words_in_spm(make: Any) -> None:
    tokenizer = make(spm_keys(("<|u|>", _TYPES.CONTROL)))
    hello, world = (tokenizer.encode(word, add_special=False) for word in ("hello", "world"))
    assert [tokenizer.piece(id) for id in (*hello, *world)] == ["▁hello", "▁world"]
    user = tokenizer.n_vocab - 1
    assert tokenizer.encode("hello world") == [1, *hello, *world]
    assert tokenizer.encode("hello<|u|>world", parse_special=True) == [1, *hello, user, *world]
    assert tokenizer.decode([*hello, *world]) == "hello world"
    assert tokenizer.decode([1, *hello, *world], skip_special=True) == "hello world"
    assert tokenizer.decoder().push(world[0]) == " world"  # part of a text
    plain = make(spm_keys(add_space_prefix=False))
    assert plain.encode("hello", add_special=False) != hello
    assert plain.decode(plain.encode(" hello", add_special=False)) == " hello"


def test_no_space_after_what_is_text_to_spm(make: Any) -> None:
    """As the library SentencePiece encodes it with user_defined_symbols=["<nl>"]; llama.cpp adds a space there."""
    tokenizer = make(spm_keys(("<nl>", _TYPES.USER_DEFINED), ("<c>", _TYPES.CONTROL)))
    for text, pieces in {
        "a<nl>b": ["▁", "a", "<nl>", "b"],
        "a<nl> hello": ["▁", "a", "<nl>", "▁hello"],
        "a<nl><nl>b": ["▁", "a", "<nl>", "<nl>", "b"],
        "a<c>hello": ["▁", "a", "<c>", "▁hello"],
    }.items():
        ids = tokenizer.encode(text, add_special=False, parse_special=True)
        assert [tokenizer.piece(id) for id in ids] == pieces
        assert text.startswith("a<c>") or tokenizer.decode(ids) == text


def test_spm_without_scores(make: Any) -> None:
    tokenizer = make(spm_keys(scores=None))  # all merges are as good as each other then, as in llama.cpp
    ids = tokenizer.encode("hello world", add_special=False)
    assert [tokenizer.piece(id) for id in ids] == ["▁hello", "▁world"]


def test_bytes_for_what_spm_does_not_know(make: Any) -> None:
    tokenizer = make(spm_keys(add_space_prefix=False))
    assert tokenizer.encode("é", add_special=False) == [3 + 0xC3, 3 + 0xA9]
    assert tokenizer.token_bytes(3 + 0xC3) == b"\xc3"


def test_white_space_after_special_tokens_of_phi_3(make: Any) -> None:
    keys = spm_keys(("<|u|>", _TYPES.CONTROL))
    user = len(keys["tokens"]) - 1
    text = "<|u|> \n hello"
    kept, taken = make(keys), make({**keys, "general.name": "Phi-3 mini"})
    assert taken.encode(text, parse_special=True) == [1, user, *taken.encode("hello", add_special=False)]
    assert kept.encode(text, parse_special=True) != taken.encode(text, parse_special=True)


def test_bpe_of_gemma_4(make: Any) -> None:
    """Merges over UTF-8 with ▁ for spaces; newlines whole; bytes as <0xXX>."""
    tokens = ["<pad>", "<eos>", "<bos>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "▁a", "\n", "\n\n", "▁a▁"]
    types = [3] * 3 + [6] * 256 + [1] * 6
    merges = ["▁ a", "▁a ▁"]
    keys = {"model": "gemma4", "tokens": tokens, "token_type": types, "merges": merges, "bos_token_id": 2}
    tokenizer = make(keys)
    ids = tokenizer.encode(" a é\n\na")
    assert [tokenizer.piece(id) for id in ids] == ["<bos>", "▁a▁", "<0xC3>", "<0xA9>", "\n\n", "a"]
    assert tokenizer.decode(ids[1:]) == " a é\n\na"


@given(ids=st.lists(st.integers(0, 399)))
@settings(max_examples=300, deadline=None)
def test_streaming_gives_the_same_text(bpe: Tokenizer, ids: list[int]) -> None:
    decoder = bpe.decoder()
    parts = [decoder.push(id) for id in ids]
    assert "".join([*parts, decoder.flush()]) == bpe.decode(ids)


@given(text=st.text(min_size=1))
@settings(max_examples=300, deadline=None)
def test_streaming_never_gives_half_a_character(bpe: Tokenizer, text: str) -> None:
    byte_ids = {bpe.token_bytes(id): id for id in range(256)}
    decoder = bpe.decoder()
    parts = [decoder.push(byte_ids[bytes([byte])]) for byte in text.encode()]
    assert "".join(parts) == text and decoder.flush() == ""
    decoder.push(byte_ids[b"\xe4"])
    assert decoder.push(byte_ids[b"\xb8"]) == "" and decoder.flush() == "\ufffd"
    assert decoder.push(byte_ids[b"a"]) == "a"
    assert decoder.push(byte_ids[b"\xff"]) == "\ufffd"  # can never become a character


def test_tokenizers_that_are_not_there_or_not_supported(make: Any) -> None:
    for model in ("no_vocab", "other"):
        with pytest.raises(TokenizerError, match=f"'{model}'.*not supported"):
            make(bpe_keys(model=model))
    with pytest.raises(TokenizerError, match="model is missing"):
        make(bpe_keys(model=None))
    with pytest.raises(TokenizerError, match="tokens is missing"):
        make(bpe_keys(tokens=None))
    with pytest.raises(TokenizerError, match="merges is missing"):
        make(bpe_keys(merges=None))
    with pytest.raises(TokenizerError, match="scores has 2 entries"):
        make(spm_keys(scores=[0.0, 1.0]))
    with pytest.raises(TokenizerError, match="token_type has 3 entries"):
        make(bpe_keys(token_type=[1, 1, 1]))
    with pytest.raises(TokenizerError, match="merges is not an array"):
        make(bpe_keys(merges="none"))
    for keys in (bpe_keys(tokens=[1, 2]), bpe_keys(merges=[1, 2]), bpe_keys(token_type=["a"] * 400)):
        with pytest.raises(GGUFError, match="an array of"):
            make(keys).encode("hello there")
    tokenizer = make(bpe_keys())
    for id in (-1, 400):
        with pytest.raises(TokenizerError, match=f"token {id} "):
            tokenizer.token_bytes(id)


def test_pre_tokenizers_that_are_not_known_are_warned_of(make: Any) -> None:
    for pre in ("unheard-of", None):
        with pytest.warns(UserWarning, match="pre"):
            tokenizer = make(bpe_keys(pre=pre))
        assert tokenizer.decode(tokenizer.encode("Hello 12345, world", add_special=False)) == "Hello 12345, world"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(bpe_keys(pre="default"))


def test_strange_vocabularies(make: Any) -> None:
    """Empty tokens, equal ones, types that do not exist, merges that make no token."""
    tokens = ["a", "b", "", "a", "<0xZZ>", "c"]
    keys = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": [1, 1, 3, 1, 6, 99], "merges": ["a b"]}
    tokenizer = make(keys)
    assert tokenizer.encode("ab", parse_special=True) == [3, 1]
    assert [tokenizer.token_bytes(id) for id in range(6)] == [b"a", b"b", b"[EMPTY_2]", b"a", b"<0xZZ>", b""]
    assert tokenizer.encode("z") == []
