"""`ggrun bench`, `perplexity`, `tokenize` and `inspect`."""

import json
import math
import re
import statistics

import numpy as np
import pytest

from gguf_runtime import LLM
from tests.make_model import BOS
from tests.paths import SHARED, needs

TEXT = "the rain in spain stays mainly in the plain, and so do the trains. " * 12


def test_bench_has_the_fields_of_llama_bench(ggrun, model):
    done = ggrun("bench", "-m", model, "-p", "8,16", "-n", "4", "-d", "0,5", "-t", 1, "-r", 3, "-o", "json")
    results = json.loads(done.stdout)
    sizes = [(r["n_prompt"], r["n_gen"], r["n_depth"]) for r in results]
    assert sizes == [(p, n, d) for d in (0, 5) for p, n in ((8, 0), (16, 0), (0, 4))]
    for result in results:
        n = result["n_prompt"] + result["n_gen"]
        assert result["samples_ts"] == pytest.approx([1e9 * n / ns for ns in result["samples_ns"]])
        assert len(result["samples_ns"]) == 3
        assert result["avg_ns"] == pytest.approx(statistics.mean(result["samples_ns"]), abs=1)
        assert result["avg_ts"] == pytest.approx(statistics.mean(result["samples_ts"]))
        assert result["stddev_ts"] == pytest.approx(statistics.stdev(result["samples_ts"]))
        assert result["n_threads"] == 1 and result["n_batch"] == 2048 and result["n_ubatch"] == 512
        assert result["model_n_params"] > 0 and result["model_size"] > 0 and result["backends"] == "CPU"


def test_bench_table(ggrun, model):
    lines = ggrun("bench", "-m", model, "-p", "4-8+4", "-n", "0", "-d", "3", "-r", 1).stdout.decode().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split("|")[7].strip() for line in lines] == ["test", "-" * 14 + ":", "pp4 @ d3", "pp8 @ d3"]
    assert re.search(r"\d+\.\d\d ± 0\.00 \|$", lines[-1])


@pytest.mark.parametrize("wrong", [["-p", "x"], ["-p", "1-"], ["-o", "yaml"], ["-r", "0"]])
def test_bench_usage(ggrun, model, wrong):
    assert ggrun("bench", "-m", model, *wrong).returncode == 2


@pytest.mark.parametrize("which", ["model", "chat_model"])  # without and with BOS
def test_perplexity_by_its_definition(ggrun, request, tmp_path, which):
    path, n_ctx = request.getfixturevalue(which), 64
    file = tmp_path / "text.txt"
    file.write_text(TEXT + "\n")
    done = ggrun("perplexity", "-m", path, "-f", file, "-c", n_ctx)

    losses = []
    with LLM(path) as llm:
        tokens = llm.tokenize(TEXT)
        for start in range(0, len(tokens) - n_ctx + 1, n_ctx):
            chunk = tokens[start : start + n_ctx]
            inputs = [llm.tokenizer.bos_id, *chunk[1:]] if llm.tokenizer.add_bos else chunk
            logits = llm.logits(inputs).astype(np.float64)
            for i in range(n_ctx // 2, n_ctx - 1):
                losses.append(np.log(np.exp(logits[i]).sum()) - logits[i, chunk[i + 1]])
    perplexity = math.exp(np.mean(losses))
    error = perplexity * np.std(losses) / math.sqrt(len(losses) - 1)
    found = re.fullmatch(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)\n", done.stdout.decode())
    assert float(found[1]) == pytest.approx(perplexity, rel=1e-4)
    assert float(found[2]) == pytest.approx(error, rel=1e-3)
    assert done.stderr.decode().startswith("[1]")


def test_perplexity_of_a_short_text(ggrun, model, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("short")
    done = ggrun("perplexity", "-m", model, "-f", file)
    assert done.returncode == 1 and done.stderr.startswith(b"ggrun: the text has")
    assert ggrun("perplexity", "-m", model).returncode == 2


@needs(SHARED / "golden")
def test_perplexity_of_smollm2(ggrun, smollm2):
    done = ggrun("perplexity", "-m", smollm2, "-f", SHARED / "golden" / "perplexity.txt")
    assert float(done.stdout.split()[4]) == pytest.approx(16.400, rel=0.02)


def test_tokenize(ggrun, chat_model):
    with LLM(chat_model) as llm:
        plain = llm.tokenize("the rain", add_special=False)
        bos, eos = llm.tokenizer.bos_id, llm.tokenizer.eos_id
    line = ["tokenize", "-m", chat_model, "-p", "the rain<|eos|>"]
    assert json.loads(ggrun(*line).stdout) == [bos, *plain, eos]
    assert json.loads(ggrun(*line, "--no-bos").stdout) == [*plain, eos]
    assert eos not in json.loads(ggrun(*line, "--no-parse-special").stdout)
    assert json.loads(ggrun("tokenize", "-m", chat_model, input=b"the rain\n").stdout) == [bos, *plain]
    pieces = ggrun(*line, "--pieces").stdout.decode().splitlines()
    assert pieces[0] == f"{bos:6} -> '{BOS}'" and len(pieces) == len(plain) + 2


def test_inspect(ggrun, model):
    shown = ggrun("inspect", model).stdout.decode()
    assert 'general.architecture = "llama"' in shown and 'tokenizer.ggml.tokens = ["!", ' in shown
    assert re.search(r"blk\.0\.ffn_down\.weight +F32 +64 x 128 +32,768 bytes", shown)
    everything = json.loads(ggrun("inspect", "--json", model).stdout)
    assert len(everything["metadata"]["tokenizer.ggml.tokens"]) == 320
    assert {"name": "output_norm.weight", "type": "F32", "shape": [64], "n_bytes": 256} in everything["tensors"]
    assert ggrun("inspect", "nothing.gguf").returncode == 1


def test_memory_for_keys_and_values(ggrun, model):
    ask = ("-m", model, "-p", "The rain", "-n", 3, "--temp", 0, "--ignore-eos")
    plain = ggrun(*ask)
    assert ggrun(*ask, "--kv-memory", "1M").stdout == plain.stdout
    small = ggrun(*ask, "--kv-memory", "1k")
    assert small.returncode == 1 and b"smaller than a page" in small.stderr and small.stdout == b""
    # a page of this model has 16 KiB: 64 tokens, keys and values of 32 halves, in two heads' room
    full = ggrun("-m", model, "-p", "The rain " * 99, "-n", 3, "--kv-memory", "40k")
    assert full.returncode == 1 and b"--kv-memory gives it more" in full.stderr.replace(b"\n", b" ")
    assert ggrun(*ask, "--kv-memory", "much").returncode == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_files_as_editors_write_them(ggrun, model, tmp_path, encoding):
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""

    def write(text):
        (tmp_path / "text").write_bytes((mark + text).encode(encoding))
        return tmp_path / "text"

    line = ["tokenize", "-m", model, "--pieces"]
    plain = ggrun(*line, "-p", "naïve tone").stdout
    assert plain and ggrun(*line, "-f", write("naïve tone\n")).stdout == plain
    assert ggrun(*line, input=write("naïve tone\n").read_bytes()).stdout == plain
    grammar = ["--grammar", write('root ::= "tone"\n'), "-n", 8, "--temp", 0]
    done = ggrun("-m", model, "-p", "x", *grammar)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == b"tone" and not done.stderr


def test_a_grammar_that_is_no_text(ggrun, model, tmp_path):
    for content in (b"root ::= \xff\xff", b"\x80root"):
        (tmp_path / "g").write_bytes(content)
        done = ggrun("-m", model, "-p", "x", "--grammar", tmp_path / "g")
        assert done.returncode in (1, 2) and b"is not a text in UTF-8" in done.stderr
        assert len(done.stderr.splitlines()) == 1 and not done.stdout
