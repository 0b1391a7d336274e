"""`LLM`: a model to call from Python."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .context import Context
from .draft import DraftModel
from .engine import Chunk, Engine
from .generation import Generation
from .loader import open_gguf
from .sampling import Sampler, SamplingParams
from .speculation import Guesser, PromptLookup, Speculation
from .splitter import Layers, Offload
from .tokenizer import Tokenizer

if TYPE_CHECKING:  # Jinja is loaded once a conversation is rendered
    from .chat.template import ChatTemplate, Message

    Prompt = str | Sequence[int] | Sequence[Message]

_TEMPLATE = "tokenizer.chat_template"


class LLM:
    """A model in a GGUF file, ready to answer.

        with LLM("model.gguf") as llm:
            print(llm.chat([{"role": "user", "content": "Hi"}], temperature=0))

    n_ctx: tokens that a text may have, prompt and answer together; 0 for what the model was trained for.
    n_threads: 0 for the number of physical cores. n_ubatch: tokens of a prompt that are computed in one pass, 0 for 512
    on the CPU and 2,048 on a GPU.
    type_k, type_v: how the cache keeps keys and values: f16, q8_0 or q4_0. mmap: map the file rather than read it.
    chat_template: one to use instead of the model's: a name that llama.cpp knows (chat/builtin.py), a file, or Jinja.
    draft: file of a small model of the same vocabulary, whose guesses this one checks, several in one step.

    n_gpu_layers: the last N layers go to GPUs (with N beyond their number the output too), "all" do, or, "auto", as
    many as fit, if there is a GPU. main_gpu: the only GPU to use. tensor_split: the GPUs' shares. override_tensors:
    (pattern, device) pairs; a block (a layer's attention, or its feed-forward) with a tensor that matches goes there,
    as in ("ffn_.*", "CPU"). offload_kv: keys and values too.

    Raises OSError where the file cannot be read, GGUFError where it is damaged, ModelError, PlanError and
    TokenizerError where something in it is not supported, SplitError where more is asked for than GPUs have room for.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_ctx: int = 0,
        n_threads: int = 0,
        n_gpu_layers: Layers = "auto",
        main_gpu: int | None = None,
        tensor_split: Sequence[float] = (),
        override_tensors: Sequence[tuple[str, str]] = (),
        offload_kv: bool = True,
        n_ubatch: int = 0,
        type_k: str = "f16",
        type_v: str = "f16",
        mmap: bool = True,
        chat_template: str | None = None,
        draft: str | Path | None = None,
    ) -> None:
        self.file = open_gguf(path, mmap=mmap)
        offload = Offload(n_gpu_layers, main_gpu, tuple(tensor_split), tuple(override_tensors), not offload_kv)
        self.engine = Engine(
            self.file, n_ctx=n_ctx, n_threads=n_threads, n_ubatch=n_ubatch, type_k=type_k, type_v=type_v,
            offload=offload,
        )  # fmt: skip
        self.tokenizer = Tokenizer.from_metadata(self.file.metadata)
        self._chat_template = chat_template
        self._templates: dict[str, ChatTemplate] = {}
        self._draft = LLM(draft, n_ctx=n_ctx, n_threads=n_threads, mmap=mmap) if draft else None
        if self._draft and self._draft.tokenizer.tokens != self.tokenizer.tokens:
            raise ValueError(f"{self._draft.file.path} has another vocabulary: it cannot guess for this model")
        self._draft_context = self._draft.new_context() if self._draft else None
        if chat_template is not None:
            self._templates[_TEMPLATE] = self._compile(_TEMPLATE)  # wrong ones are told at once

    def generate(self, prompt: Prompt, **options: Any) -> str:
        """What the model writes after the prompt; `stream` says what a prompt and the options can be."""
        return "".join(self.stream(prompt, **options))

    def chat(
        self, messages: Sequence[Message], *, tools: Iterable[Mapping[str, Any]] | None = None, **options: Any
    ) -> str:
        """The model's answer to a conversation: dicts of role and content. Options are those of `stream`."""
        return self.generate(self.render(messages, tools=tools), **options)

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        stop: str | Collection[str] = (),
        ignore_eos: bool = False,
        context: Context | None = None,
        context_shift: bool = False,
        lookup: bool = True,
        **sampling: Any,
    ) -> Generation:
        """The same piece by piece, as it is made: an iterator of text, which also knows what it cost.

        prompt: text (special tokens in it are understood), token ids, or messages for the chat template.
        max_tokens: None for no limit but the context. stop: strings that end the answer. ignore_eos: do not let
        the model end it, unless a grammar does. context: what an earlier call has computed, for this one to go on
        from. context_shift: in a full context, forget its older half rather than stop. lookup: guess tokens from the
        text so far, which makes the answer no other, only sooner. sampling: fields of SamplingParams.
        """
        if ignore_eos and not SamplingParams(**sampling).constrains:
            never = dict.fromkeys(self.tokenizer.eog_ids, float("-inf"))
            sampling["logit_bias"] = {**sampling.get("logit_bias", {}), **never}
        return Generation(
            self.engine,
            self.tokenizer,
            self.prompt_tokens(prompt),
            Sampler(SamplingParams(**sampling), self.tokenizer),
            max_tokens,
            [stop] if isinstance(stop, str) else stop,
            context=context,
            speculation=self._speculation() if lookup else None,
            shift=context_shift,
        )

    def _speculation(self) -> Speculation:
        """Guesses for one answer: of the draft model, or from the text so far."""
        guesser: Guesser = PromptLookup()
        if self._draft and self._draft_context:
            guesser = DraftModel(self._draft_context, self._draft.n_bytes / self.n_bytes)
        return Speculation(guesser, self.engine.step_cost)

    def new_context(self) -> Context:
        """An empty context, to be given to several calls of `stream`."""
        return Context(self.engine)

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt. Text gets a BOS token where the model wants one and the text has none."""
        if not isinstance(prompt, str):
            if all(isinstance(item, int) for item in prompt[:1]):
                return cast(list[int], list(prompt))
            prompt = self.render(cast("Sequence[Message]", prompt))
        ids = self.tokenizer.encode(prompt, add_special=False, parse_special=True)
        bos = self.tokenizer.bos_id
        return [bos, *ids] if self.tokenizer.add_bos and bos is not None and ids[:1] != [bos] else ids

    @property
    def name(self) -> str:
        """The model's own name, or its file's."""
        return str(self.file.metadata.get("general.name") or Path(self.file.path).stem)

    @property
    def n_bytes(self) -> int:
        """How many bytes the weights take."""
        return sum(tensor.n_bytes for tensor in self.file.tensors.values())

    @property
    def has_chat_template(self) -> bool:
        return _TEMPLATE in self._templates or _TEMPLATE in self.file.metadata

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Iterable[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """A conversation as the text that the model's chat template makes of it.

        Raises ChatError where the model has no template, or the template refuses the conversation.
        """
        with_tools = f"{_TEMPLATE}.tool_use"
        own = self._chat_template is None
        key = with_tools if own and tools and with_tools in self.file.metadata else _TEMPLATE
        if key not in self._templates:
            self._templates[key] = self._compile(key)
        return self._templates[key].render(messages, tools=tools, **variables)

    def _compile(self, key: str) -> ChatTemplate:
        from .chat.template import ChatError, ChatTemplate

        if self._chat_template is not None:
            from .chat.builtin import find

            source = find(self._chat_template)
        elif key in self.file.metadata:
            source = str(self.file.metadata[key])
        else:
            raise ChatError("the model has no chat template: name one with --chat-template, or give it plain text")
        metadata, tokenizer = self.file.metadata, self.tokenizer
        ids = {
            "bos_token": tokenizer.bos_id,
            "eos_token": tokenizer.eos_id,
            "unk_token": metadata.get("tokenizer.ggml.unknown_token_id"),
            "pad_token": metadata.get("tokenizer.ggml.padding_token_id"),
        }
        known = {name: i for name, i in ids.items() if isinstance(i, int) and 0 <= i < tokenizer.n_vocab}
        return ChatTemplate(source, {name: tokenizer.piece(i) for name, i in known.items()})

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text.

        add_special: with BOS and EOS where the model wants them. parse_special: where the text spells a special
        token, take that token.
        """
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def logits(self, text: str | Sequence[int]) -> np.ndarray:
        """f32[n_tokens, n_vocab]: after each token of the text, how much each token is expected next."""
        tokens = self.tokenize(text) if isinstance(text, str) else list(text)
        sequence = self.engine.new_sequence()
        try:
            return self.engine.step([Chunk(sequence, tokens, len(tokens))])
        finally:
            sequence.release()

    def close(self) -> None:
        """End the threads and unmap the file."""
        if self._draft:
            self._draft.close()
        self.engine.close()
        self.file.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
