"""`ggrun` as people run it: as a process, with pipes, signals and terminals."""

import os
import signal
import subprocess
import time

import pytest

from gguf_runtime.cli.prompt import unescape
from gguf_runtime.sampling import SamplingParams
from tests.conftest import command_line
from tests.make_model import BOS, write_model

posix = pytest.mark.skipif(os.name == "nt", reason="signals and terminals of POSIX")


def endless(model, *args, **settings):
    """An answer that does not end, as a process."""
    line = [*command_line(), "-m", str(model), "-p", "Once", "--ignore-eos", "-n", "-1", *args]
    return subprocess.Popen(line, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **settings)


def one_line(done, *parts):
    """The process failed, and said why in one line that holds these parts."""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ggrun: "), lines
    assert all(part in lines[0] for part in parts), lines


def test_an_answer_and_nothing_else(ggrun, model):
    line = ["-m", model, "-p", "Once", "-n", 20, "--seed", 3, "--ignore-eos"]
    done = ggrun(*line)
    assert done.returncode == 0 and done.stderr == b"" and len(done.stdout) >= 20
    assert done.stdout == ggrun("run", *line).stdout
    assert done.stdout != ggrun(*line, "-s", 4).stdout
    assert not done.stdout.endswith(b"\n")


def test_single_dash_options_of_several_letters(ggrun, model):
    done = ggrun("-m", model, "-p", "Once", "-n1", "-ub", 7, "-b9", "-c", 64, "-t", 1, "-v")
    assert done.returncode == 0
    report = done.stderr.decode()
    assert "load" in report and "prompt" in report and "generation" in report and "t/s" in report


def test_the_gpu_that_is_not_there_is_told_once(ggrun, model):
    done = ggrun("-m", model, "-p", "Once", "-n", 1, "-ngl", 20)
    assert done.returncode == 0
    one_line(done, "GPU")


# -n 0 --raw --display-prompt shows what the model would read
@pytest.mark.parametrize(
    "args, piped, prompt",
    [
        (["-p", r"a\tb\x41\\n"], None, "a\tbA\\n"),
        (["-p", r"a\tb", "--no-escape"], None, r"a\tb"),
        (["-p", "Sum up:"], b"one\ntwo\n", "Sum up:\none\ntwo"),
        ([], rb"a\tb", r"a\tb"),
        ([], b"caf\xc3\xa9 \xff\xed\xa0\x80", "café ��\ufffd\ufffd"),
        (["-p", "x", "-f", "FILE"], b"piped", "x\nfrom a \\n file\npiped"),
    ],
)
def test_prompts(ggrun, model, tmp_path, args, piped, prompt):
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"from a \\n file\n")
    args = [file if arg == "FILE" else arg for arg in args]
    done = ggrun("-m", model, "--raw", "-n", 0, "--display-prompt", *args, input=piped)
    assert done.stdout.decode() == prompt and done.stderr == b""


def test_waiting_for_input_is_told(model):
    line = [*command_line(), "-m", str(model), "--raw", "-p", "x", "-n", "0", "--display-prompt"]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert b"waiting" in process.stderr.readline()
    output, _ = process.communicate(b"y")
    assert output == b"x\ny" and process.returncode == 0


@posix
def test_an_argument_that_is_not_utf_8(ggrun, model):
    done = ggrun("-m", model, "-n", 0, "--display-prompt", "-p", os.fsdecode(b"caf\xe9"))
    assert done.stdout.decode() == "caf\ufffd"


def test_escapes():
    assert unescape(rb"\n\r\t\'\"\\\x4a\xc3\xa9") == "\n\r\t'\"\\Jé".encode()
    assert unescape(rb"\q \x4 \u0041 \\") == rb"\q \x4 \u0041 " + b"\\"


def test_a_chat_template_is_used(ggrun, chat_model, model):
    shown = ["-n", 0, "--display-prompt", "-p", "Hi"]
    assert ggrun("-m", chat_model, *shown).stdout.decode() == f"{BOS}[user] Hi\n[assistant]"
    system = ggrun("-m", chat_model, *shown, "-sys", "Be brief.").stdout.decode()
    assert system == f"{BOS}[system] Be brief.\n[user] Hi\n[assistant]"
    assert ggrun("-m", chat_model, "--raw", *shown).stdout == b"Hi"
    assert ggrun("-m", model, *shown).stdout == b"Hi"
    assert ggrun("-m", model, *shown, "-sys", "x").returncode == 2


def test_output_is_utf_8_in_any_locale(ggrun, model):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = ggrun("-m", model, "-n", 0, "--display-prompt", "--raw", input="Grüße 😀".encode(), env=environment)
    assert done.stdout.decode() == "Grüße 😀"


def test_a_full_context_is_told(ggrun, model):
    done = ggrun("-m", model, "-p", "Once", "-c", 16, "--ignore-eos")
    assert done.returncode == 0 and done.stdout
    one_line(done, "context of 16 tokens is full", "-c")


def test_failures_are_one_line(ggrun, model, tmp_path):
    text, cut, alien = tmp_path / "text.gguf", tmp_path / "cut.gguf", tmp_path / "alien.gguf"
    text.write_text("this is not a model")
    cut.write_bytes(model.read_bytes()[:3000])
    write_model(alien, arch="squid", n_layer=1, n_embd=64, n_ff=64, n_head=1, n_head_kv=1)
    for path, words in {
        tmp_path / "none.gguf": ["none.gguf", "No such file"],
        tmp_path: [str(tmp_path)],
        text: ["text.gguf", "GGUF"],
        cut: ["cut.gguf"],
        alien: ["squid", "not supported"],
    }.items():
        done = ggrun("-m", path, "-p", "Once")
        assert done.returncode == 1 and done.stdout == b""
        one_line(done, *words)
    done = ggrun("-m", model, "-p", "Once " * 50, "-c", 32)
    assert done.returncode == 1
    one_line(done, "32", "-c")
    assert b"Traceback" in ggrun("-m", text, "-p", "Once", "--verbose").stderr
    assert ggrun("-m", model, "-f", tmp_path / "none.txt").returncode == 1


@pytest.mark.parametrize(
    "args",
    [["--nonsense"], ["-n", "x"], ["-ub", "0"], ["--top-p", "nan"], ["--repeat-penalty", "0"], ["some words"], []],
)
def test_wrong_usage(ggrun, model, args):
    done = ggrun(*args) if args in ([], ["some words"]) else ggrun("-m", model, "-p", "Once", *args)
    assert done.returncode == 2 and done.stdout == b"" and b"Usage: ggrun" in done.stderr


def test_help_and_version(ggrun):
    shown = ggrun("--help").stdout.decode()
    assert all(word in shown for word in ("--temp", "-ngl", "bench", "perplexity", "tokenize", "inspect"))
    assert ggrun("bench", "-h").returncode == 0
    assert ggrun("--version").stdout.startswith(b"ggrun ")


def test_sampling_defaults_are_those_of_sampling_params():
    from gguf_runtime.cli.run import command

    given = command.make_context("run", []).params
    given["seed"] = None
    params = SamplingParams()
    for name in set(SamplingParams.__dataclass_fields__) - {"lark"}:  # which is for tools
        assert given[name] == getattr(params, name), name


def test_sampling_options(ggrun, model):
    from gguf_runtime.cli.run import command

    def given(*args):
        return command.make_context("run", list(args)).params

    assert given("--samplers", "top-k;typical;temp")["samplers"] == ("top_k", "typ_p", "temperature")
    assert given("--sampler-seq", "kyt")["samplers"] == ("top_k", "typ_p", "temperature")
    assert given("-l", "5+1.5", "-l", "7-inf", "-l", "9-2")["logit_bias"] == {5: 1.5, 7: -float("inf"), 9: -2}
    assert given("--dry-sequence-breaker", "none")["dry_sequence_breakers"] == ()
    everything = ["--xtc-probability", 0.5, "--dry-multiplier", 0.8, "--typical", 0.9, "--top-nsigma", 2]
    done = ggrun("-m", model, "-p", "Once", "-n", 20, "--dynatemp-range", 0.3, *everything, "--ignore-eos")
    assert done.returncode == 0 and done.stderr == b"" and done.stdout
    assert ggrun("-m", model, "-p", "Once", "-n", 20, "--mirostat", 1).returncode == 0
    for wrong in (["--samplers", "nonsense"], ["-l", "x"], ["--mirostat", 3], ["--dry-allowed-length", 0]):
        assert ggrun("-m", model, "-p", "Once", *wrong).returncode == 2, wrong


def test_the_model_of_the_wheel_is_the_default(ggrun, smollm2):
    done = ggrun("-p", "What is the capital of Japan?", "--temp", 0, "-n", 12)
    assert b"Tokyo" in done.stdout and done.stderr == b""


def test_a_warm_start_imports_neither_numba_nor_gguf(ggrun, model):
    ggrun("-m", model, "-p", "Once", "-n", 2)
    done = ggrun("-m", model, "-p", "Once", "-n", 2, env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert "gguf_runtime.engine" in imported
    slow = {"numba", "gguf", "jinja2", "importlib.metadata", "click.shell_completion", "rich", "prompt_toolkit"}
    assert not imported & slow


def test_a_closed_pipe_ends_quietly(model):
    process = endless(model, stdout=subprocess.PIPE)
    assert process.stdout.read(5)
    process.stdout.close()
    assert process.wait(10) == 0 and process.stderr.read() == b""


@posix
def test_ctrl_c_ends_at_once(model):
    process = endless(model, stdout=subprocess.PIPE)
    process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130 and errors == b""


@posix
def test_ctrl_c_shows_no_traceback_however_early(model):
    for i in range(0, 40, 2):
        process = endless(model, stdout=subprocess.DEVNULL)
        time.sleep(0.05 + 0.01 * i)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        # Python's own traceback, before it has reached a file of ggrun's
        before = b'", line ' in errors and b"gguf_runtime/" not in errors
        if not before:
            assert process.returncode in (130, -signal.SIGINT) and errors == b"", (i, errors)


@posix
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_no_file(model, tmp_path, end):
    process = endless(model, "-o", str(tmp_path / "answer"), stdout=subprocess.DEVNULL)
    while not os.listdir(tmp_path):
        time.sleep(0.01)
    process.send_signal(end)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + end and errors == b"" and not os.listdir(tmp_path)


@posix
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("writable", [True, False])
def test_an_end_while_compiling_leaves_nothing(model, tmp_path, end, writable):
    cache, scratch = tmp_path / "cache", tmp_path / "scratch"
    scratch.mkdir()
    if not writable:
        cache.write_text("no folder")
    environment = {**os.environ, "GGRUN_CACHE": str(cache), "TMPDIR": str(scratch)}
    process = endless(model, stdout=subprocess.DEVNULL, env=environment)
    while not (workers := children(process.pid)):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(end)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == (-end if end == signal.SIGKILL else 128 + end)
    told = b"ggrun: compiling ", b"ggrun: compiled kernels cannot be kept"
    assert all(line.startswith(told) for line in errors.splitlines()), errors
    deadline = time.monotonic() + 20
    while any(map(runs, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not os.listdir(scratch) and not [path for path in cache.rglob("*") if path.name.startswith("tmp")]


def children(pid):
    """The processes that a process has started, by their ids."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=True).stdout.split()
    return [int(child) for child, parent in zip(listed[::2], listed[1::2], strict=True) if int(parent) == pid]


def runs(pid):
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True)
    return done.returncode == 0 and not done.stdout.startswith(b"Z")


@posix
def test_on_a_terminal_the_answer_ends_with_a_newline(model):
    shown = on_terminal([*command_line(), "-m", str(model), "-p", "Once", "-n", "5", "--temp", "0", "--ignore-eos"])
    assert shown.endswith(b"\r\n") and not shown.endswith(b"\r\n\r\n")


@posix
def test_ctrl_c_on_a_terminal(model):
    line = [*command_line(), "-m", str(model), "-p", "Once", "--ignore-eos"]
    assert on_terminal(line, type_after=1, keys=b"\x03").endswith(b"^C\r\n")


def on_terminal(line, type_after=0.0, keys=b""):
    """What a command shows on a terminal of its own, with keys typed after some output and this many seconds."""
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.execv(line[0], line)
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
        if keys:
            time.sleep(type_after)
            os.write(terminal, keys)
            keys = b""
    os.close(terminal)
    os.waitpid(child, 0)
    return shown
