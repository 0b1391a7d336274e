"""Chat templates by name, for models that come without one: the formats that llama.cpp has built in, under its names.

A format says how each role's message is written: `{}` stands for its text, `{.}` for the text without white space
around it. A BOS token before the first turn is left to the tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..files import read_text
from .messages import ChatError


@dataclass(frozen=True)
class ChatFormat:
    """How a conversation is written.

    prompt: what the assistant's answer goes on from. after_system: how the first user's message is written after a
    system message, where they share a turn. start: what every conversation begins with. default: what stands for a
    system message that is not there.
    """

    system: str
    user: str
    assistant: str
    prompt: str
    after_system: str = ""
    start: str = ""
    default: str = ""

    def jinja(self) -> str:
        """The format as a chat template."""
        first = "{% if loop.index0 == 1 and messages[0].role == 'system' %}" if self.after_system else ""
        user = f"{first}{_text(self.after_system)}{{% else %}}{_text(self.user)}{{% endif %}}" if first else ""
        default = f"{{% if messages[0].role != 'system' %}}{_text(self.default)}{{% endif %}}" if self.default else ""
        return (
            f"{_text(self.start)}{default}"
            "{% for message in messages %}"
            f"{{% if message.role == 'system' %}}{_text(self.system)}"
            f"{{% elif message.role == 'user' %}}{user or _text(self.user)}"
            f"{{% else %}}{_text(self.assistant)}{{% endif %}}"
            "{% endfor %}"
            f"{{% if add_generation_prompt %}}{_text(self.prompt)}{{% endif %}}"
        )


def _text(pattern: str) -> str:
    """A pattern as Jinja. Text is quoted, for white space to stay."""
    parts = pattern.replace("{.}", "{}.").split("{}")
    pieces = [repr(parts[0])]
    for part in parts[1:]:
        strip = part.startswith(".")
        pieces += ["message.content | trim" if strip else "message.content", repr(part[strip:])]
    return "".join(f"{{{{ {piece} }}}}" for piece in pieces if piece != "''")


def _roles(
    turn: str, prompt: str, user: str = "user", system: str = "system", assistant: str = "assistant", **more: str
) -> ChatFormat:
    """A format that writes all roles in the same way, `@` being the role."""
    system, user, assistant_turn = (turn.replace("@", role) for role in (system, user, assistant))
    return ChatFormat(system, user, assistant_turn, prompt.replace("@", assistant), **more)


def _inst(system: str, user: str, assistant: str, after_system: str = "") -> ChatFormat:
    """Llama 2's and Mistral's: an answer needs no opening."""
    return ChatFormat(system, user, assistant, "", after_system)


FORMATS = {
    "chatml": _roles("<|im_start|>@\n{}<|im_end|>\n", "<|im_start|>@\n"),
    "llama2": _inst("[INST] {}\n", "[INST] {} [/INST]", "{}</s>", "{} [/INST]"),
    "llama2-sys": _inst("[INST] <<SYS>>\n{}\n<</SYS>>\n\n", "[INST] {} [/INST]", "{}</s>", "{} [/INST]"),
    "llama2-sys-bos": _inst("[INST] <<SYS>>\n{}\n<</SYS>>\n\n", "<s>[INST] {} [/INST]", "{}</s>", "{} [/INST]"),
    "llama2-sys-strip": _inst("[INST] <<SYS>>\n{.}\n<</SYS>>\n\n", "[INST] {.} [/INST]", "{.}</s>", "{.} [/INST]"),
    "llama3": _roles(
        "<|start_header_id|>@<|end_header_id|>\n\n{.}<|eot_id|>", "<|start_header_id|>@<|end_header_id|>\n\n"
    ),
    "llama4": _roles("<|header_start|>@<|header_end|>\n\n{.}<|eot|>", "<|header_start|>@<|header_end|>\n\n"),
    "mistral-v1": _inst(" [INST] {}\n\n", " [INST] {} [/INST]", " {}</s>", "{} [/INST]"),
    "mistral-v3": _inst("[INST] {}\n\n", "[INST] {}[/INST]", " {.}</s>", "{}[/INST]"),
    "mistral-v3-tekken": _inst("[INST]{}\n\n", "[INST]{}[/INST]", "{}</s>", "{}[/INST]"),
    "mistral-v7": _inst("[SYSTEM_PROMPT] {}[/SYSTEM_PROMPT]", "[INST] {}[/INST]", " {}</s>"),
    "mistral-v7-tekken": _inst("[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]", "[INST]{}[/INST]", "{}</s>"),
    "phi3": _roles("<|@|>\n{}<|end|>\n", "<|@|>\n"),
    "phi4": _roles("<|im_start|>@<|im_sep|>{}<|im_end|>", "<|im_start|>@<|im_sep|>"),
    "falcon3": _roles("<|@|>\n{}\n", "<|@|>\n"),
    "zephyr": _roles("<|@|>\n{}<|endoftext|>\n", "<|@|>\n"),
    "monarch": ChatFormat("system\n{}</s>\n", "<s>user\n{}</s>\n", "<s>assistant\n{}</s>\n", "<s>assistant\n"),
    "gemma": ChatFormat(
        "<start_of_turn>user\n{.}\n\n",
        "<start_of_turn>user\n{.}<end_of_turn>\n",
        "<start_of_turn>model\n{.}<end_of_turn>\n",
        "<start_of_turn>model\n",
        "{.}<end_of_turn>\n",
    ),
    "orion": ChatFormat("Human: {}\n\n", "Human: {}\n\nAssistant: </s>", "{}</s>", "", "{}\n\nAssistant: </s>"),
    "openchat": ChatFormat(
        "{}<|end_of_turn|>",
        "GPT4 Correct User: {}<|end_of_turn|>",
        "GPT4 Correct Assistant: {}<|end_of_turn|>",
        "GPT4 Correct Assistant:",
    ),
    "vicuna": ChatFormat("{}\n\n", "USER: {}\n", "ASSISTANT: {}</s>\n", "ASSISTANT:"),
    "vicuna-orca": ChatFormat("SYSTEM: {}\n", "USER: {}\n", "ASSISTANT: {}</s>\n", "ASSISTANT:"),
    "deepseek": ChatFormat("{}", "### Instruction:\n{}\n", "### Response:\n{}\n<|EOT|>\n", "### Response:\n"),
    "deepseek2": ChatFormat("{}\n\n", "User: {}\n\n", "Assistant: {}<｜end▁of▁sentence｜>", "Assistant:"),
    "deepseek3": ChatFormat("{}\n\n", "<｜User｜>{}", "<｜Assistant｜>{}<｜end▁of▁sentence｜>", "<｜Assistant｜>"),
    "command-r": _roles(
        "<|START_OF_TURN_TOKEN|><|@_TOKEN|>{.}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|@_TOKEN|>",
        "USER",
        "SYSTEM",
        "CHATBOT",
    ),
    "chatglm3": _roles("<|@|>\n {}", "<|@|>", start="[gMASK]sop"),
    "chatglm4": _roles("<|@|>\n{}", "<|@|>\n", start="[gMASK]<sop>"),
    "glmedge": _roles("<|@|>\n{}", "<|@|>"),
    "minicpm": ChatFormat("{.}", "<用户>{.}<AI>", "{.}", ""),
    "exaone3": ChatFormat(
        "[|system|]{.}[|endofturn|]\n", "[|user|]{.}\n", "[|assistant|]{.}[|endofturn|]\n", "[|assistant|]"
    ),
    "exaone4": ChatFormat(
        "[|system|]{.}[|endofturn|]\n", "[|user|]{.}\n", "[|assistant|]{.}[|endofturn|]\n", "[|assistant|]"
    ),
    "exaone-moe": _roles("<|@|>\n{.}<|endofturn|>\n", "<|@|>\n"),
    "rwkv-world": ChatFormat("System: {.}\n\n", "User: {.}\n\n", "Assistant: {.}\n\n", "Assistant:"),
    "granite": _roles("<|start_of_role|>@<|end_of_role|>{}<|end_of_text|>\n", "<|start_of_role|>@<|end_of_role|>"),
    "gigachat": ChatFormat(
        "{}<|message_sep|>",
        "user<|role_sep|>{}<|message_sep|>available functions<|role_sep|>[]<|message_sep|>",
        "assistant<|role_sep|>{}<|message_sep|>",
        "assistant<|role_sep|>",
        start="<s>",
    ),
    "megrez": _roles("<|role_start|>@<|role_end|>{}<|turn_end|>", "<|role_start|>@<|role_end|>"),
    "bailing": _roles("<role>@</role>{}", "<role>@</role>", "HUMAN", "SYSTEM", "ASSISTANT"),
    "bailing-think": _roles("<role>@</role>{}", "<role>@</role><think>", "HUMAN", "SYSTEM", "ASSISTANT"),
    "bailing2": _roles(
        "<role>@</role>{}<|role_end|>",
        "<role>@</role>",
        "HUMAN",
        "SYSTEM",
        "ASSISTANT",
        default="<role>SYSTEM</role>detailed thinking off<|role_end|>",
    ),
    "smolvlm": ChatFormat(
        "{}\n\n",
        "User: {}<end_of_utterance>\n",
        "Assistant: {}<end_of_utterance>\n",
        "Assistant:",
        start="<|im_start|>",
    ),
    "hunyuan-moe": ChatFormat(
        "<|startoftext|>{}<|extra_4|>", "<|startoftext|>{}<|extra_0|>", "{}<|eos|>", "", "<|startoftext|>{}<|extra_0|>"
    ),
    "hunyuan-dense": ChatFormat(
        "{}<｜hy_place▁holder▁no▁3｜>",
        "<｜hy_User｜>{}<｜hy_Assistant｜>",
        "<｜hy_Assistant｜>{}<｜hy_place▁holder▁no▁2｜>",
        "",
    ),
    "hunyuan-vl": ChatFormat(
        "{}<｜hy_place▁holder▁no▁3｜>",
        "{}<｜hy_User｜>",
        "{}<｜hy_Assistant｜>",
        "",
        start="<｜hy_begin▁of▁sentence｜>",
    ),
    "pangu-embedded": _roles(
        "[unused9]@：{}[unused10]", "[unused9]@：", "用户", "系统", "助手", default="[unused9]系统：[unused10]"
    ),
    "deepseek-ocr": ChatFormat("{}", "{}", "{}", ""),
    "kimi-k2": ChatFormat(
        "<|im_system|>system<|im_middle|>{}<|im_end|>",
        "<|im_user|>user<|im_middle|>{}<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>{}<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>",
    ),
    "gpt-oss": ChatFormat(
        "<|start|>system<|message|>{}<|end|>",
        "<|start|>user<|message|>{}<|end|>",
        "<|start|>assistant<|message|>{}<|return|>",
        "<|start|>assistant",
    ),
    "solar-open": _roles("<|begin|>@<|content|>{}<|end|>", "<|begin|>@"),
    "seed_oss": ChatFormat(
        "<seed:bos>system\n{}<seed:eos>",
        "<seed:bos>user\n{}<seed:eos>",
        "<seed:bos>assistant\n{.}<seed:eos>",
        "<seed:bos>assistant\n",
    ),
    "grok-2": ChatFormat(
        "System: {.}<|separator|>\n\n", "Human: {.}<|separator|>\n\n", "Assistant: {}<|separator|>\n\n", "Assistant:"
    ),
}
FORMATS["granite-4.0"] = FORMATS["granite-4.1"] = FORMATS["granite"]


def between(prefix: str, suffix: str, bos: bool) -> str:
    """Jinja that puts each message of the user between two texts, and writes all else as it is."""
    start = "{{ bos_token }}" if bos else ""
    return (
        "{% for message in messages %}{% if message.role == 'user' %}"
        f"{start}{{{{ {prefix!r} }}}}{{{{ message.content }}}}{{{{ {suffix!r} }}}}"
        "{% else %}{{ message.content }}{% endif %}{% endfor %}"
    )


def find(template: str) -> str:
    """The Jinja that a name of FORMATS, the path of a file, or Jinja itself stand for. Raises ChatError, OSError."""
    if template in FORMATS:
        return FORMATS[template].jinja()
    if "{{" in template or "{%" in template:
        return template
    path = Path(template)
    if not path.is_file():
        raise ChatError(
            f"{template!r} is neither a file nor the name of a chat template; names are {', '.join(sorted(FORMATS))}"
        )
    return read_text(path, errors="replace")
