"""ggrun in scripts: JSON, files, many prompts, a prompt cache, completion, exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from gguf_runtime import files
from tests.conftest import command_line
from tests.test_cli import one_line, posix

PLAIN = ["-n", 12, "--temp", 0, "--ignore-eos"]


def lines(data: bytes) -> list[dict[str, Any]]:
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def test_json(ggrun, model):
    text = ggrun("-m", model, "-p", "Once", *PLAIN).stdout.decode()
    (answer,) = lines(ggrun("-m", model, "-p", "Once", *PLAIN, "--json").stdout)
    assert answer["text"] == text and len(answer["tokens"]) == answer["n_tokens"] == 12
    assert answer["stop_reason"] == "length" and answer["n_prompt"] > 0
    assert answer["timings"].keys() == {"load", "prompt", "generation", "tokens_per_second"}
    (shown,) = lines(ggrun("-m", model, "-p", "Once", *PLAIN, "--json", "--display-prompt").stdout)
    assert shown["prompt"] == "Once"


def test_json_lines(ggrun, model):
    (answer,) = lines(ggrun("-m", model, "-p", "Once", *PLAIN, "--json").stdout)
    *tokens, end = lines(ggrun("-m", model, "-p", "Once", *PLAIN, "--jsonl").stdout)
    assert [line["token"] for line in tokens if line["token"] is not None] == answer["tokens"]
    assert "".join(line["text"] for line in tokens) == answer["text"]
    assert end["stop_reason"] == "length" and end["n_tokens"] == 12


def test_stop_strings(ggrun, model):
    text = ggrun("-m", model, "-p", "Once", "-n", 40, "--temp", 0, "--ignore-eos").stdout.decode()
    stop = text[15:18]
    done = ggrun("-m", model, "-p", "Once", "-n", 40, "--temp", 0, "--ignore-eos", "--stop", "zzzz", "--stop", stop)
    assert done.stdout.decode() == text[: text.index(stop)]


def test_a_model_without_m(ggrun, model):
    assert ggrun(model, "-p", "Once", *PLAIN).stdout == ggrun("-m", model, "-p", "Once", *PLAIN).stdout
    done = ggrun(model, "-m", model, "-p", "Once")
    assert done.returncode == 2 and b"two models" in done.stderr


def test_an_output_file(ggrun, model, tmp_path):
    file = tmp_path / "answer.txt"
    done = ggrun("-m", model, "-p", "Once", *PLAIN, "-o", file)
    assert done.returncode == 0 and done.stdout == b""
    assert file.read_bytes() == ggrun("-m", model, "-p", "Once", *PLAIN).stdout
    assert os.listdir(tmp_path) == ["answer.txt"]
    done = ggrun("-m", model, "-p", "Once", "-o", tmp_path / "no" / "folder.txt")
    assert done.returncode == 1
    one_line(done, "folder.txt")


@posix
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_output_file_is_whole_or_not_there(model, tmp_path, end):
    file = tmp_path / "answer.txt"
    file.write_text("old")
    line = [*command_line(), "-m", str(model), "-p", "Once", "--ignore-eos", "-o", str(file)]
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL)
    while len(os.listdir(tmp_path)) == 1:
        time.sleep(0.01)
    process.send_signal(end)
    assert process.wait(10) == (130 if end == signal.SIGINT else -9)
    assert file.read_text() == "old"
    if end == signal.SIGINT:
        assert os.listdir(tmp_path) == ["answer.txt"]


def test_output_to_a_device(ggrun, model):
    if os.path.exists("/dev/null"):
        assert ggrun("-m", model, "-p", "Once", "-n", 2, "-o", "/dev/null").returncode == 0
        assert not os.path.isfile("/dev/null")


def test_a_full_disk_is_told_with_the_file(tmp_path):
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "x"))), files.replacing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not [*tmp_path.iterdir()]


# many prompts

PROMPTS = ["Once", {"prompt": "The rain", "id": "rain"}, {"prompt": "In spain", "max_tokens": 3}, "Last"] * 12


def write_prompts(path: Path, prompts: list[Any] = PROMPTS) -> Path:
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return path


def test_many_prompts(ggrun, model, tmp_path):
    file = write_prompts(tmp_path / "in.jsonl")
    done = ggrun("-m", model, "--prompts", file, *PLAIN)
    assert done.returncode == 0 and done.stderr == b""
    answers = lines(done.stdout)
    assert [answer["id"] for answer in answers[:5]] == [1, "rain", 3, 4, 5]
    assert [answer["n_tokens"] for answer in answers[:4]] == [12, 12, 3, 12]
    assert answers[0]["text"] == ggrun("-m", model, "-p", "Once", *PLAIN).stdout.decode()
    assert answers[1]["text"] == ggrun("-m", model, "-p", "The rain", *PLAIN).stdout.decode()
    assert len(answers) == len(PROMPTS)
    done = ggrun("-m", model, "--prompts", file, *PLAIN, "-o", tmp_path / "out.jsonl")
    assert lines((tmp_path / "out.jsonl").read_bytes()) == answers and done.stdout == b""
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]
    assert lines(ggrun("-m", model, "--prompts", "-", *PLAIN, input=file.read_bytes()).stdout) == answers


def test_messages_and_the_chat_template(ggrun, chat_model, tmp_path):
    messages = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}
    file = write_prompts(tmp_path / "in.jsonl", [messages, {"prompt": "Hi", "system": "Be brief."}, "Hi"])
    first, second, third = lines(ggrun("-m", chat_model, "--prompts", file, *PLAIN).stdout)
    assert first["text"] == second["text"] and first["n_prompt"] == second["n_prompt"] > third["n_prompt"]
    again = lines(ggrun("-m", chat_model, "--prompts", file, *PLAIN, "-sys", "Be brief.").stdout)
    assert again[2]["text"] == first["text"]


def test_prompts_that_begin_alike(ggrun, model, tmp_path):
    prompts = ["The rain in spain falls on the plain. " * 6 + end for end in ("Why?", "When?", "", "Who?")] + ["Once"]
    file = write_prompts(tmp_path / "in.jsonl", prompts)
    answers = lines(ggrun("-m", model, "--prompts", file, *PLAIN).stdout)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer["text"] == ggrun("-m", model, "-p", prompt, *PLAIN).stdout.decode()


@posix
def test_a_run_that_is_cut_off_goes_on(ggrun, model, tmp_path):
    file, out = write_prompts(tmp_path / "in.jsonl", PROMPTS * 20), tmp_path / "out.jsonl"
    options = ["-m", model, "--prompts", file, "-n", 50, "--temp", 0, "--ignore-eos", "-o", out]
    process = subprocess.Popen([*command_line(), *map(str, options)], stdin=subprocess.DEVNULL)
    while not any(path.stat().st_size > 1000 for path in tmp_path.glob("*.partial")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    (partial,) = tmp_path.glob("*.partial")
    n_done = partial.read_bytes().count(b"\n")
    assert 0 < n_done < len(PROMPTS) * 20 and not out.exists()
    with partial.open("ab") as torn:
        torn.write(b'{"id": 7, "te')
    done = ggrun(*options)
    assert f"{n_done} of {len(PROMPTS) * 20} answers" in done.stderr.decode()
    answers = lines(out.read_bytes())
    assert len(answers) == len(PROMPTS) * 20 and [a["id"] for a in answers[:2]] == [1, "rain"]
    assert {answer["text"] for answer in answers[::4]} == {answers[0]["text"]}
    assert not list(tmp_path.glob("*.partial"))


def test_prompts_that_cannot_be_answered(ggrun, model, tmp_path):
    prompts = ["Once", {"prompt": "x " * 400}, {"prompt": "Once", "temperature": "hot"}, {"messages": 3}, "Last"]
    file = write_prompts(tmp_path / "in.jsonl", prompts)
    done = ggrun("-m", model, "--prompts", file, *PLAIN, "-c", 128)
    answers = lines(done.stdout)
    assert done.returncode == 1 and ["error" in answer for answer in answers] == [False, True, True, True, False]
    one_line(done, "3 of 5")


def test_lines_of_prompts_that_are_wrong(ggrun, chat_model, tmp_path):
    wrong = {
        "{": "line 2 of the prompts: this is not JSON", "[1]": "neither text nor",
        '{"id": "a"}': '"prompt" and "messages"', '{"prompt": 5}': "prompt must be text",
        '{"prompt": "x", "topp": 1}': "unknown topp: there are prompt, messages",
        '{"prompt": "x", "messages": []}': "not both", '{"messages": []}': "messages must be",
        '{"messages": [{"role": "robot", "content": "x"}]}': "messages[0].role must be one of system",
        '{"messages": [{"role": "user", "content": 5}]}': "messages[0].content",
        '{"prompt": "x", "system": 5}': "system",
    }  # fmt: skip
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(['"Once"', *wrong, '"Last"']))
    done = ggrun("-m", chat_model, "--prompts", file, *PLAIN)
    first, *failed, last = lines(done.stdout)
    assert done.returncode == 1 and first["text"] and last["text"]
    one_line(done, f"{len(wrong)} of {len(wrong) + 2}")
    assert [answer["id"] for answer in failed] == [2, 3, "a", *range(5, len(wrong) + 2)]
    for answer, words in zip(failed, wrong.values(), strict=True):
        assert words in answer["error"]


# the prompt cache


def cached(done: subprocess.CompletedProcess[bytes]) -> int:
    assert done.returncode == 0
    return int(json.loads(done.stdout)["n_prompt_cached"])


def test_prompt_cache(ggrun, model, tmp_path):
    file, long = tmp_path / "cache", "The rain in spain falls on the plain. " * 8
    line = ["-m", model, *PLAIN, "--json", "--prompt-cache", file, "-p"]
    first = ggrun(*line, long + "First")
    assert cached(first) == 0 and first.stderr == b""
    written = file.read_bytes()
    second = ggrun(*line, long + "Second")
    assert cached(second) > 100 and file.read_bytes() == written
    plain = ggrun("-m", model, *PLAIN, "--json", "-p", long + "Second")
    assert json.loads(second.stdout)["text"] == json.loads(plain.stdout)["text"]
    assert cached(ggrun(*line, long + "First")) == json.loads(first.stdout)["n_prompt"] - 1


def test_a_prompt_cache_of_something_else(ggrun, model, chat_model, tmp_path):
    file, long = tmp_path / "cache", "The rain in spain falls on the plain. " * 4
    line = ["-m", model, *PLAIN, "--json", "--prompt-cache", file, "-p", long]
    ggrun(*line)
    for others in (["-ctk", "q8_0"], ["-m", chat_model]):
        done = ggrun(*line, *others)
        assert cached(done) == 0
        one_line(done, "other settings")
        ggrun(*line)
    good = file.read_bytes()
    for damaged in (good[:-1], good[:60], good[:-9] + b"damaged!!", good + b"x"):
        file.write_bytes(damaged)
        done = ggrun(*line)
        one_line(done, "damaged")
        assert cached(done) == 0 and cached(ggrun(*line)) > 0  # made anew, and good
    file.write_bytes(good.replace(b'"tokens": [', b'"tokens": [-'))
    assert cached(ggrun(*line)) == 0 and cached(ggrun(*line)) > 0
    file.write_text("my diary")
    done = ggrun(*line)
    assert done.returncode == 1 and file.read_text() == "my diary"
    one_line(done, "no prompt cache")


# completion and help


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(ggrun, shell):
    done = ggrun("completion", shell)
    assert done.returncode == 0 and b"_GGRUN_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("ggrun ", "chat"), ("ggrun ch", "chat"), ("ggrun --pro", "--prompt-cache"), ("ggrun bench --t", "--threads"),
     ("ggrun chat --context", "--context-shift"), ("ggrun -p x --js", "--jsonl")],
)  # fmt: skip
def test_completion(ggrun, words, wanted):
    environment = {"_GGRUN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = ggrun(env={**os.environ, **environment})
    assert f"plain,{wanted}" in done.stdout.decode().splitlines()


def test_help_is_in_sections(ggrun):
    shown = ggrun("--help").stdout.decode()
    titles = ["Model:", "Prompt:", "Answer:", "Output:", "Sampling:", "Machine:", "Commands"]
    places = [shown.index(f"\n{title}") for title in titles]
    assert places == sorted(places)
