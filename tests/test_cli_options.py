"""The command line as people of llama.cpp and Ollama type it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from gguf_runtime import LLM
from gguf_runtime.cli import llama_cpp
from gguf_runtime.cli.app import COMMANDS, app
from gguf_runtime.cli.loading import placement, with_experts
from gguf_runtime.text import common
from tests.make_model import BOS
from tests.test_cli import one_line

DOCS = Path(__file__).parents[1] / "docs"


def given(*args: str, command: str = "run") -> dict:
    """What the options of a command stand for."""
    import click

    context = click.Context(app, info_name="ggrun")
    return app.get_command(context, command).make_context(command, list(args), parent=context).params


def refused(*args: str, command: str = "run") -> str:
    import click

    with pytest.raises(click.UsageError) as error:
        given(*args, command=command)
    return error.value.format_message()


# llama.cpp's table


def test_the_page_is_that_of_the_table():
    assert (DOCS / "llama-cpp-options.md").read_text("utf-8") == llama_cpp.page()


def test_what_the_table_calls_done_is_an_option_and_what_it_does_not_is_none():
    import click

    command = app.get_command(click.Context(app), "run")
    options = [option for option in command.params if isinstance(option, click.Option)]
    ours = {name for option in options for name in (*option.opts, *option.secondary_opts)} | {
        "-h", "--help", "--usage", "--version",
    }  # fmt: skip
    names = [name for row in llama_cpp.rows() for name in row.names]
    assert len(names) == len(set(names))
    for row in llama_cpp.rows():
        assert (row.fate == "done") == (set(row.names) <= ours), row
        assert row.fate == "done" or (row.why and not set(row.names) & ours), row


@pytest.mark.parametrize("row", [row for row in llama_cpp.rows() if row.fate != "done"], ids=lambda row: row.names[0])
def test_every_other_option_is_taken_or_refused_with_its_reason(row):
    for name in row.names:
        values = ["on"] if row.value.startswith("[") else ["1"] * len(row.value.split())
        if row.fate == "refused":
            assert row.why in refused("-p", "Hi", name, *values)
            continue
        plain = given("-p", "Hi", "-n", "3")
        assert given("-p", "Hi", name, *values, "-n", "3") == plain
        if row.value.startswith("["):
            assert given("-p", "Hi", name, "-n", "3") == plain
        elif row.value:
            assert "requires" in refused("-p", "Hi", name)


def test_a_line_made_for_llama_cpp(ggrun, model):
    line = "-no-cnv -ngl 0 -fa on --jinja --no-warmup --color --no-perf --simple-io --log-disable --no-display-prompt"
    done = ggrun("-m", model, "-p", "Hi", "-n", 8, *line.split(), "--seed", 1, "--ignore-eos")
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout == ggrun("-m", model, "-p", "Hi", "--raw", "-n", 8, "--seed", 1, "--ignore-eos").stdout
    done = ggrun("-m", model, "-p", "Hi", "-n", 1, "--no-warmup", "-v")
    assert b"--no-warmup changes nothing here: nothing is run before the prompt" in done.stderr


@pytest.mark.parametrize("name", ["-pps", "-nx", "-fx", "-hello", "-tt", "-vv", "-mmodel.gguf", "-x"])
def test_an_unknown_option_of_one_dash_is_not_read_as_letters(name):
    assert re.search(f"No such option:? '?{name}", refused("-p", "Hi", name, "X"))  # as versions of click put it
    for command in COMMANDS:
        assert "No such option" in refused(name, command=command)


def test_numbers_may_follow_a_letter_at_once():
    options = given("-n8", "-c4096", "-t2", "-s42", "-n=9", "--top_k", "3", "--top-p=0.5", "-ngl=7")
    wanted = {"predict": 9, "ctx_size": 4096, "threads": 2, "seed": 42, "top_k": 3, "top_p": 0.5, "gpu_layers": 7}
    assert {name: options[name] for name in wanted} == wanted
    assert given("-p", "-n8")["prompt"] == "-n8" and given("-n", "-1")["predict"] == -1
    assert given("--", "-n8")["name"] == "-n8"


def test_suggestions_are_near_or_none():
    assert "--threads" in refused("--thread", "3") and "--ctx-size" in refused("--ctx-sizes", "3")
    for name in ("--nonsense", "-xyz", "--zebra"):
        assert "ean" not in refused(name)
    assert "LoRA" in refused("--lora", "x") and "--draft" not in refused("--lora", "x")
    assert "of `ggrun run`" in refused("--top-k", "3", command="tokenize")


# what the options do


def test_models_of_llama_cpp():
    from gguf_runtime.cli.loading import named_model

    assert named_model(None, None, "o/r:Q8_0", None, None) == "hf:o/r:Q8_0"
    assert named_model(None, None, "o/r:Q8_0", "f.gguf", None) == "hf:o/r/f.gguf"
    assert named_model(None, None, None, None, "https://x/f.gguf") == "https://x/f.gguf"
    options = given("-hf", "o/r", "-hff", "f", "-mu", "u", "-hfd", "o/d", "-md", "d")
    names = "hf_repo", "hf_file", "model_url", "draft_repo", "draft"
    assert [options[name] for name in names] == ["o/r", "f", "u", "o/d", "d"]


def test_offline_gets_nothing(ggrun, tmp_path):
    environment = {**os.environ, "GGRUN_MODELS": str(tmp_path), "HF_HOME": str(tmp_path)}
    done = ggrun("-hf", "owner/repo", "--offline", "-p", "Hi", env=environment)
    assert done.returncode == 1
    one_line(done, "hf:owner/repo", "not on this machine")
    assert ggrun("-hff", "x.gguf", "-p", "Hi").returncode == 2


def test_prompts_from_files(ggrun, model, tmp_path):
    shown = ["-m", model, "--raw", "-n", 0, "--display-prompt"]
    file = tmp_path / "prompt"
    file.write_bytes(b"one\n")
    assert ggrun(*shown, "-bf", file).stdout == b"one\n" and ggrun(*shown, "-f", file).stdout == b"one"
    assert ggrun(*shown, "-f", "-", input=b"two\n").stdout == b"two"
    assert ggrun(*shown, "-f", "-", "-p", "one", input=b"two\n").stdout == b"one\ntwo"


def test_system_prompts_and_affixes(ggrun, chat_model, tmp_path):
    shown = ["-m", chat_model, "-n", 0, "--display-prompt", "-p", "Hi"]
    file = tmp_path / "system"
    file.write_text("Be brief.\n")
    assert ggrun(*shown, "-sysf", file).stdout == ggrun(*shown, "-sys", "Be brief.").stdout
    assert ggrun(*shown, "-sysf", file, "-sys", "x").returncode == 2
    assert ggrun(*shown, "--in-prefix", r"Q: '{{", "--in-suffix", r"\nA:").stdout == b"Q: '{{Hi\nA:"
    assert ggrun(*shown, "--in-prefix-bos", "--in-suffix", ":").stdout.decode() == f"{BOS}Hi:"
    assert ggrun(*shown, "--in-prefix", "x", "--chat-template", "chatml").returncode == 2
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0].content }}|{{ mood }}|{{ enable_thinking }}|{{ reasoning_effort }}")
    more = ["--chat-template-file", template, "--chat-template-kwargs", '{"mood": "good"}']
    done = ggrun(*shown, *more, "-rea", "off", "--reasoning-effort", "low")
    assert done.stdout == b"Hi|good|False|low"
    for wrong in ("x", "[]", '{"messages": []}'):
        assert ggrun(*shown, "--chat-template-kwargs", wrong).returncode == 2


def test_no_conversation_and_conversation(ggrun, chat_model):
    shown = ["-m", chat_model, "-n", 0, "--display-prompt", "-p", "Hi"]
    assert ggrun(*shown, "-no-cnv").stdout == b"Hi"
    done = ggrun("-m", chat_model, "-cnv", "-p", "Hi", "-n", 4, "--temp", 0, "--ignore-eos", input=b"And?\n")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2
    once = ggrun("-m", chat_model, "-cnv", "-st", "-p", "Hi", "-n", 4, "--temp", 0, "--ignore-eos", input=b"And?\n")
    assert once.stdout.splitlines() == done.stdout.splitlines()[:1]
    assert ggrun("-m", chat_model, "-cnv", "--json", "-p", "Hi").returncode == 2


def test_lines_of_a_multiline_chat(ggrun, chat_model):
    line = ["-m", chat_model, "-cnv", "-n", 4, "--temp", 0, "--ignore-eos"]
    done = ggrun(*line, "-mli", input=b"one\ntwo\\\nthree\n")
    assert len(done.stdout.splitlines()) == 2
    assert done.stdout.splitlines()[0] == ggrun(*line, "-p", r"one\ntwo", input=b"").stdout.splitlines()[0]


def test_metadata_as_the_user_wants_it(model):
    metadata = {
        "llama.rope.freq_base": 5e5, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0,
        "tokenizer.ggml.add_bos_token": True,
    }  # fmt: skip
    changes = {".rope.freq_base": 5e5, ".rope.scaling.factor": 4.0, "tokenizer.ggml.add_bos_token": True}
    with LLM(model) as plain, LLM(model, n_ctx=64, metadata=changes) as llm:
        assert llm.file.metadata.keys() == plain.file.metadata.keys() | metadata.keys()
        assert {key: llm.file.metadata[key] for key in metadata} == metadata
        assert list(llm.file.tensors) == list(plain.file.tensors)
        assert not (llm.logits([5, 6, 7, 8]) == plain.logits([5, 6, 7, 8])).all()


def test_metadata_options():
    options = given(
        "--override-kv", "a.b=int:3,c=str:x,y=z,d=bool:true", "--override-kv", "e=float:.5", "--rope-scaling", "yarn",
        "--rope-freq-scale", "0.25", "--yarn-orig-ctx", "4096", "--yarn-beta-fast", "-1", "--yarn-ext-factor", "0",
    )  # fmt: skip
    assert options["override_kv"] == ({"a.b": 3, "c": "x,y=z", "d": True}, {"e": 0.5})
    from gguf_runtime.cli import loading

    rope = {name: options[name] for name in (*loading._KEYS, "rope_freq_scale")}
    assert loading._metadata(rope, options["override_kv"]) == {
        ".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0, ".rope.scaling.yarn_ext_factor": 0.0,
        ".rope.scaling.original_context_length": 4096, "a.b": 3, "c": "x,y=z", "d": True, "e": 0.5,
    }  # fmt: skip
    for wrong in ("x", "a=int:x", "a=bool:1", "a=list:1", "a=int:1,b"):
        assert refused("--override-kv", wrong)


def test_metadata_on_the_command_line(ggrun, model):
    plain = ["-m", model, "-p", "the rain in spain falls", "-n", 30, "--temp", 0, "--ignore-eos"]
    text = ggrun(*plain).stdout
    key = ["--override-kv", "llama.rope.freq_base=float:100"]
    yarn = ["--rope-scaling", "yarn", "--rope-scale", 2, "--yarn-attn-factor", 9]
    for change in (["--rope-freq-base", 100], ["--rope-scale", 8], key, yarn):
        done = ggrun(*plain, *change)
        assert done.returncode == 0 and done.stdout != text, change
    done = ggrun(*plain, "--override-kv", "llama.block_count=int:7")
    assert done.returncode == 1
    one_line(done, "tensor")


def test_placement_of_llama_cpp():
    usual = {"gpu_layers": "auto", "devices": None, "split_mode": "layer", "main_gpu": None, "tensor_split": ()}

    def placed(**changes):
        return placement(**{**usual, **changes})

    assert placed() == {"n_gpu_layers": "auto", "main_gpu": None, "tensor_split": ()}
    assert placed(devices=())["n_gpu_layers"] == 0
    assert placed(devices=(2,))["main_gpu"] == 2
    assert placed(devices=(0, 2))["tensor_split"] == (1, 0, 1)
    assert placed(split_mode="none")["main_gpu"] == 0
    assert given("-dev", "CUDA0,CUDA2")["devices"] == (0, 2) and given("-dev", "none")["devices"] == ()
    assert refused("-dev", "Vulkan0") and refused("-dev", "CUDA1,CUDA0") and refused("-sm", "row")


def test_experts_are_kept_in_ram():
    from gguf_runtime.engine.layer_split import Block, GpuRoom, Offload, split

    parts = "attn_q.weight", "ffn_gate_exps.weight"
    blocks = [Block(i, 10, 1, (f"blk.{i}.{part}",)) for i in range(12) for part in parts]
    blocks.append(Block(12, 10, 0, ("output.weight",)))

    def on_cpu(*line):
        overrides = with_experts(given(*line))["override_tensors"]
        devices = split(blocks, [GpuRoom("CUDA0", 1000)], Offload("all", overrides=tuple(overrides))).devices
        return [i for i, device in enumerate(devices) if device == "CPU"]

    assert on_cpu() == []
    assert on_cpu("--cpu-moe") == on_cpu("-ot", "exps=CPU") == [*range(1, 24, 2)]
    assert on_cpu("-ncmoe", 2) == [1, 3] and on_cpu("-ncmoe", 2, "-ot", r"blk\.1\..*exps=CUDA0") == [1]
    assert on_cpu("-ncmoe", 12, "-cmoe") == on_cpu("-cmoe")


def test_threads_mlock_and_load_modes(ggrun, model):
    line = ["-m", model, "-p", "Once", "-n", 4, "--temp", 0, "--ignore-eos"]
    text = ggrun(*line).stdout
    ways = ["--mlock"], ["-lm", "mmap+mlock"], ["-lm", "none"], ["-tb", 1], ["-t", 1, "-tb", 2], ["-dev", "none"]
    for more in ways:
        done = ggrun(*line, *more)
        assert done.returncode == 0 and done.stdout == text, more
        assert (b"-tb 2" in done.stderr) == (len(more) == 4)
    assert b"CPU" in ggrun("--list-devices").stdout


def test_what_stays_in_a_full_context(model):
    with LLM(model, n_ctx=32) as llm:

        def kept(n_keep):
            answer = llm.stream("the rain in spain", max_tokens=60, temperature=0, ignore_eos=True, n_keep=n_keep,
                                context_shift=True, lookup=False)  # fmt: skip
            "".join(answer)
            return common(answer.sequence.context, np.array(answer.prompt)), len(answer.prompt)

        n = kept(None)[1]
        assert kept(None)[0] == kept(-1)[0] == n and 3 <= kept(3)[0] < n and 1 <= kept(0)[0] < n


def test_no_limit_and_until_the_context_is_full(ggrun, model):
    line = ["-m", model, "-p", "Once", "-c", 32, "--ignore-eos", "--json"]
    until_full = json.loads(ggrun(*line, "-n", -2, "--context-shift").stdout)
    assert until_full["stop_reason"] == "context" and 16 < until_full["n_tokens"] <= 32
    assert json.loads(ggrun(*line, "-n", 50, "--context-shift").stdout)["n_tokens"] == 50
    assert json.loads(ggrun(*line, "-n", -1, "--no-context-shift").stdout)["stop_reason"] == "context"


def test_stop_texts_may_be_escaped():
    from gguf_runtime.cli.answers import take_dialogue

    options = given("-r", r"\n\n", "--stop", "x", "-p", "Hi")
    take_dialogue(options)
    assert options["stop"] == ("\n\n", "x")


def test_the_cache_of_a_prompt_can_be_read_only(ggrun, model, tmp_path):
    file = tmp_path / "cache"
    line = ["-m", model, "-p", "the rain in spain " * 9, "-n", 2, "--prompt-cache", file]
    assert ggrun(*line, "--prompt-cache-ro").returncode == 0 and not file.exists()
    assert ggrun(*line).returncode == 0 and file.exists()


# reasoning


def test_thoughts_of_a_bounded_length(model):
    from gguf_runtime.chat.thinking import Thinking

    with LLM(model, n_ctx=256) as llm:
        options = {"temperature": 0, "ignore_eos": True, "max_tokens": 40}
        free = llm.generate("the rain <think>", **options)
        bounded = llm.generate("the rain <think>", thinking=Thinking(5, " So."), **options)
        thought, end, _ = bounded.partition(" So.</think>")
        assert end and free.startswith(thought) and "</think>" not in free
        assert llm.generate("the rain <think>", thinking=Thinking(0), **options).startswith("</think>")
        assert llm.generate("the rain", thinking=Thinking(0), **options) == llm.generate("the rain", **options)


def test_where_thoughts_go(ggrun, chat_model, tmp_path):
    line = ["-m", chat_model, "-p", "Hi", "-n", 30, "--temp", 0, "--ignore-eos", "--reasoning-budget", 3]
    template = "{{ messages[-1].content }}<think>"
    line += ["--chat-template", template]
    raw = ggrun(*line).stdout.decode()
    thought, _, answer = raw.partition("</think>")
    assert thought and answer
    assert ggrun(*line, "--reasoning-format", "deepseek").stdout.decode() == answer.lstrip("\n")
    whole = json.loads(ggrun(*line, "--reasoning-format", "deepseek-legacy", "--json").stdout)
    assert whole["text"] == raw and whole["reasoning"] == thought
    apart = json.loads(ggrun(*line, "--reasoning-format", "deepseek", "--json").stdout)
    assert apart["text"] == answer.lstrip("\n") and apart["reasoning"] == thought


# answers that must have a form


@pytest.mark.parametrize("form", [["--json-schema", '{"type": "integer", "minimum": 1}'], ["--regex", "[a-z]{400}"],
                                  ["--grammar", 'root ::= [a-z]{400} "."']])  # fmt: skip
def test_an_answer_that_is_cut_off_before_it_has_its_form(ggrun, chat_model, form):
    line = ["-m", chat_model, "-p", "Hi", *form]
    if form[0] != "--json-schema":
        for limit in (["-n", 3], ["-c", 32]):
            done = ggrun(*line, *limit)
            assert done.returncode == 1
            one_line(done, "cut off", "-n" if limit[0] == "-n" else "-c")
    assert ggrun(*line, "-n", 120, "--temp", 0).returncode in (0, 1)


def test_an_answer_whose_form_is_whole_when_n_ends_it(ggrun, chat_model):
    assert ggrun("-m", chat_model, "-p", "Hi", "--regex", "[a-z]*", "-n", 3).returncode == 0


def test_prompts_whose_answers_are_cut_off(ggrun, chat_model, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text('"Hi"\n')
    done = ggrun("-m", chat_model, "--prompts", file, "--regex", "[a-z]{400}", "-n", 3)
    assert done.returncode == 1 and "error" in json.loads(done.stdout)


def test_grammars_and_schemas_that_cannot_be_used(ggrun, model, tmp_path):
    file = tmp_path / "a.gbnf"
    for option, text, words in (
        ("--grammar", 'root ::= "x\nb', "GBNF"),
        ("--json-schema", "{not json", "not valid"),
        ("--json-schema", '{"type": "object", "properties": {"a": {"type": "nonsense"}}}', "nonsense"),
    ):
        file.write_text(text)
        told = refused("-p", "Hi", option, str(file))
        assert option in told and "a.gbnf" in told and words in told
    for option, value in (("--grammar", "root = x"), ("--json-schema", "schema.json")):
        assert f"{value!r} is neither a file nor a" in refused("-p", "Hi", option, value)
    assert ggrun("-m", model, "-p", "Hi", "--json-schema", tmp_path).returncode == 1
    for option, value in (("--json-schema", '{"allOf": 3}'), ("--regex", "(a"), ("--json-schema", "false")):
        told = refused("-p", "Hi", option, value)
        assert option in told and "the grammar" not in told
    done = ggrun("-m", model, "-p", "Hi", "--regex", "a", "--json-schema", "{}")
    assert done.returncode == 2 and b"--json-schema, --grammar and --regex" in done.stderr


@pytest.mark.parametrize("template, words", [("", "neither a file nor"), ("{% if %}", "the given chat template")])
def test_templates_that_cannot_be_used(ggrun, model, template, words):
    done = ggrun("-m", model, "-p", "Hi", "--chat-template", template)
    assert done.returncode == 2 and b"--chat-template" in done.stderr and words in done.stderr.decode()


def test_a_temperature_below_zero_has_no_meaning(ggrun, model):
    done = ggrun("-m", model, "-p", "Hi", "--temp", -1)
    assert done.returncode == 2 and b"temperature must be 0" in done.stderr


@pytest.mark.parametrize("line", [
    "-n -5", "-t -4", "-tb -2", "-c 99999999999999999999999", "-c -1", "-ngl -7", "-ngl 99999999999999999999",
    "--rope-freq-base nan", "--rope-freq-base -1", "--rope-scale inf", "--yarn-orig-ctx -1", "--yarn-beta-fast -2",
    "--temp nan", "--dry-base inf", "-ts 1,nan", "--override-kv a.b=float:inf", "--kv-memory 0",
    f"--kv-memory {'9' * 400}",
])  # fmt: skip
def test_numbers_without_a_meaning_are_refused(line):
    assert line.split()[0] in refused("-p", "Hi", *line.split())


@pytest.mark.parametrize("option", ["--prompt-cache", "-f", "-o", "-sysf", "--chat-template-file"])
def test_a_file_without_a_name(option):
    """What a script's variable becomes that is not set."""
    assert "empty" in refused("-p", "Hi", option, "")


def test_numbers_of_commands_without_a_meaning(ggrun, model):
    assert refused("--dimensions", "0", command="embed") and refused("--timeout", "nan", command="serve")
    for line in ("--top-p 2", "--top-p -1", "--min-p 7"):
        assert ggrun("-m", model, "-p", "Hi", *line.split()).returncode == 2
    options = given("-ngl", "-1", "-n", "-2", "-t", "-1", "-c", "0", "--rope-scale", "0", "--yarn-ext-factor", "-1")
    assert options["gpu_layers"] == "all" and options["rope_scale"] == 0


def test_a_context_beyond_what_was_trained_for_is_told(ggrun, model):
    with LLM(model) as llm:
        n = llm.model.n_ctx_train
    line = ["-m", model, "-p", "Hi", "-n", 1]
    done = ggrun(*line, "-c", n + 1)
    assert done.returncode == 0
    one_line(done, f"-c {n + 1}", f"{n} tokens")
    assert ggrun(*line, "-c", n).stderr == b"" and ggrun(*line, "-c", n + 1, "--rope-scale", 2).stderr == b""


# verbs


@pytest.mark.parametrize("word, meant", [("bnech", "bench"), ("lst", "list"), ("pul", "pull"), ("hepl", "help")])
def test_a_mistyped_verb_gets_a_suggestion(ggrun, word, meant):
    done = ggrun(word)
    assert done.returncode == 2 and f"did you mean {meant}?" in done.stderr.decode()


def test_verbs_of_ollama(ggrun, model, tmp_path):
    done = ggrun("run", model, "Once", "upon", "-n", 0, "--display-prompt")
    assert done.stdout == b"Once upon" and done.stderr == b""
    assert ggrun("run", model, "Once", "-p", "twice").returncode == 2
    assert ggrun("help").stdout == ggrun("--help").stdout
    assert ggrun("help", "bench").stdout.startswith(b"Usage: ggrun bench")
    for line in (["--version"], ["run", "--version"], ["bench", "--version"], ["-p", "x", "--version"]):
        assert ggrun(*line).stdout.startswith(b"ggrun ")
    assert ggrun("-p", "--version", "-m", model, "-n", 0, "--display-prompt").stdout == b"--version"


def test_a_family_is_its_smallest_model(smollm2, capsys):
    from gguf_runtime.cli.loading import model_path

    assert model_path("smollm2") == smollm2
    assert "smollm2 is smollm2:135m, the smallest of" in capsys.readouterr().err
    assert model_path("smollm2:135m") == smollm2 and not capsys.readouterr().err


def test_devices_counts_the_context_that_a_run_takes(ggrun, model):
    assert given(command="devices")["ctx_size"] == given()["ctx_size"] == 0
    assert b"CPU" in ggrun("devices", "-m", model, "-c", 64, "-ctk", "q8_0").stdout


@pytest.mark.parametrize("line", [["ps"], ["stop", "--all"]])
def test_no_server_is_told_in_words(ggrun, line):
    done = ggrun(*line, "--url", "http://127.0.0.1:9")
    assert done.returncode == 1 and b"Errno" not in done.stderr
    one_line(done, "no server answers at http://127.0.0.1:9", "ggrun serve")


def test_the_help_text(ggrun):
    shown = ggrun("run", "--help", env={**os.environ, "COLUMNS": "100"}).stdout.decode()
    file = Path(__file__).parent / "recorded" / "help.txt"
    if os.environ.get("RECORD"):
        file.write_text(shown, "utf-8")
    assert shown == file.read_text("utf-8")


def test_a_character_that_n_cuts_off_is_not_shown(ggrun, model):
    with LLM(model, n_ctx=64) as llm:
        start = llm.tokenizer.all_bytes.index("😀".encode()[:1])
    line = ["-m", model, "-p", "Once", "-l", f"{start}+1e6", "--ignore-eos"]
    assert ggrun(*line, "-n", 1).stdout == b""
    assert ggrun(*line, "-n", 3).stdout == "\ufffd\ufffd".encode()  # what can never become a character is
