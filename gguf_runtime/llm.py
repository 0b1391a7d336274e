"""`LLM`: a model to call from Python."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from . import architectures, arguments
from .architectures import ModelError
from .backends import KvTypes
from .chat.marks import Rendered
from .chat.templates import ChatTemplates
from .draft import DraftModel
from .embedding import Embedding
from .engine import Chunk, Engine, Offload, Scheduler
from .engine.layer_split import LayerCount
from .generation import Generation
from .kernels.layout import KV_TYPES
from .loader import Value, lock, open_gguf, override
from .sampling import Sampler, SamplingParams
from .speculation import Guesser, PromptLookup, Speculation
from .text import Text
from .tokenizer import Tokenizer, infill_prompt

if TYPE_CHECKING:  # Jinja is loaded once a conversation is rendered
    from .chat.template import Message
    from .chat.thinking import Thinking

    Prompt = str | Sequence[int] | Sequence[Message]


class LLM(Embedding):
    """A model in a GGUF file, ready to answer, several prompts at once, and in any thread.

        with LLM("model.gguf") as llm:
            print(llm.chat([{"role": "user", "content": "Hi"}], temperature=0))

    n_ctx: tokens that a text may have, prompt and answer together; 0 for what the model was trained for.
    n_threads: 0 for the number of physical cores. n_ubatch: tokens of a prompt that are computed in one pass, 0 for 512
    on the CPU and 2,048 on a GPU.
    type_k, type_v: how the cache keeps keys and values: f16, q8_0 or q4_0. kv_memory: bytes that these may take, 0 for
    what is free. mmap: map the file rather than read it. mlock: have the system keep it in memory, or warn. metadata:
    keys of the file to change; one that begins with a dot belongs to the architecture, such as .rope.freq_base.
    chat_template: one to use instead of the model's: a name that llama.cpp knows (chat/builtin.py), a file, or Jinja.
    draft: file of a small model of the same vocabulary, whose guesses this one checks, several in one step.
    embedding: it is only to embed and to rank texts, so nothing is made ready to generate; encoders can do no more.

    device: what computes all that is not on a GPU: "cpu", or "reference", which is NumPy in float64: exact, slow, and
    without GPUs.

    n_gpu_layers: the last N layers go to GPUs (with N beyond their number the output too), "all" do, as with -1, or,
    "auto", as many as fit, if there is a GPU. main_gpu: the only GPU to use. tensor_split: the GPUs' shares.
    override_tensors: (pattern, device) pairs; a block (a layer's attention, or its feed-forward) with a tensor that
    matches goes there, as in ("ffn_.*", "CPU"). offload_kv: keys and values too.

    ray_stages: Ray actors that the layers are divided among, in place of GPUs: all of them, unless n_gpu_layers says
    how many. Each has its part of the file, which is at the same path there. ray_address: the cluster, RAY_ADDRESS, or
    None for one that is this machine.

    Threads may share an LLM: they take turns, token by token. A child made by fork goes on with what its parent loaded,
    unless that is on a GPU.

    Raises ValueError, with its name, for an argument that has no meaning, here and in all methods; OSError where the
    file cannot be read, GGUFError where it is damaged, ModelError, PlanError and
    TokenizerError where something in it is not supported, SplitError where more is asked for than GPUs have room for,
    ClusterError where there is no Ray.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_ctx: int = 0,
        n_threads: int = 0,
        n_gpu_layers: LayerCount = "auto",
        main_gpu: int | None = None,
        tensor_split: Sequence[float] = (),
        override_tensors: Sequence[tuple[str, str]] = (),
        offload_kv: bool = True,
        n_ubatch: int = 0,
        type_k: str = "f16",
        type_v: str = "f16",
        kv_memory: int = 0,
        mmap: bool = True,
        mlock: bool = False,
        metadata: Mapping[str, Value] | None = None,
        chat_template: str | None = None,
        draft: str | Path | None = None,
        embedding: bool = False,
        device: str = "cpu",
        ray_stages: int = 0,
        ray_address: str | None = None,
    ) -> None:
        settings: dict[str, Any] = {
            "n_ctx": arguments.whole("n_ctx", n_ctx, 0),
            "n_threads": arguments.whole("n_threads", n_threads, 0),
            "n_ubatch": arguments.whole("n_ubatch", n_ubatch, 0),
            "kv_types": KvTypes(
                arguments.one_of("type_k", type_k, KV_TYPES), arguments.one_of("type_v", type_v, KV_TYPES)
            ),
            "kv_memory": arguments.whole("kv_memory", kv_memory, 0),
            "device": arguments.one_of("device", device, ("cpu", "reference")),
            "offload": _offload(n_gpu_layers, main_gpu, tensor_split, override_tensors, offload_kv),
        }
        if chat_template is not None:
            arguments.text("chat_template", chat_template)
        self.file = open_gguf(arguments.path("path", path), mmap=mmap)
        if metadata:
            self.file.metadata = override(self.file.metadata, metadata)
        if mlock and not lock(self.file):
            warnings.warn(f"{path} cannot be kept in memory: ulimit -l may say why", RuntimeWarning, stacklevel=2)
        if n_stages := arguments.whole("ray_stages", ray_stages, 0):
            from .backends.ray_device import ray_devices

            settings["devices"] = ray_devices(self.file, n_stages, settings["n_threads"], ray_address)
            if n_gpu_layers == "auto":
                settings["offload"] = settings["offload"]._replace(layers="all")
        model = architectures.load(self.file, n_ctx)
        generates = model.result == "logits" and not embedding
        if generates and not model.causal:
            raise ModelError(
                f"{self.file.path}: a diffusion model, which sees all of a text at once and writes it in any order: "
                "ggrun generates only with models that write from left to right"
            )
        self._scheduler = Scheduler(Engine(self.file, model=model, **settings)) if generates else None
        self.tokenizer = Tokenizer.from_metadata(self.file.metadata)
        super().__init__(self.file, self.tokenizer, model, settings)
        self.templates = ChatTemplates(self.file.metadata, self.tokenizer, chat_template)
        small = arguments.path("draft", draft) if draft else None
        self._draft = LLM(small, n_ctx=n_ctx, n_threads=settings["n_threads"], mmap=mmap) if small else None
        if self._draft and self._draft.tokenizer.tokens != self.tokenizer.tokens:
            raise ValueError(f"draft: {self._draft.file.path} has another vocabulary: it cannot guess for this model")

    @property
    def generates(self) -> bool:
        """Whether it can write; encoders, and what was loaded for `embedding`, only embed and rank texts."""
        return self._scheduler is not None

    @property
    def scheduler(self) -> Scheduler:
        """Raises ModelError where the model does not generate."""
        if not self._scheduler:
            why = "was loaded for embeddings" if self.model.generates else "is an encoder, which has no next token"
            raise ModelError(f"{self.file.path} {why}: `ggrun embed` and LLM.embed give embeddings")
        return self._scheduler

    @property
    def engine(self) -> Engine:
        """The same."""
        return self.scheduler.engine

    def generate(self, prompt: Prompt, **options: Any) -> str:
        """What the model writes after the prompt; `stream` says what a prompt and the options can be."""
        return "".join(self.stream(prompt, **options))

    @overload
    def chat(self, messages: Sequence[Message], *, tools: None = None, **options: Any) -> str: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]],
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel: bool = True,
        **options: Any,
    ) -> dict[str, Any]: ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel: bool = True,
        **options: Any,
    ) -> str | dict[str, Any]:
        """The model's answer to a conversation: dicts of role and content. Options are those of `stream`.

        With tools it is a message: a dict with content, reasoning_content and tool_calls, in OpenAI's form, to be added
        to the conversation before the calls' results. tools, tool_choice, parallel: as `ChatTemplates.reader` has it.
        """
        prompt = self.render(messages, tools=tools)
        if tools is None:
            return self.generate(prompt, **options)
        reading = self.templates.reader(prompt, tools, tool_choice=tool_choice, parallel=parallel)
        from .chat.answer import Answer

        answer, parser = Answer(), reading.parser
        generation = self.stream(prompt, **reading.options(options))
        for event in (event for piece in generation for event in parser.push(piece)):
            answer.add(event)
            if parser.done:
                generation.close()
        for event in parser.flush():
            answer.add(event)
        return answer.message

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        stop: str | Collection[str] | None = None,
        ignore_eos: bool = False,
        context_shift: bool = False,
        n_keep: int | None = None,
        lookup: bool = True,
        cache_prompt: bool = True,
        special: bool | Collection[int] = False,
        thinking: Thinking | None = None,
        exact: bool = False,
        stop_tokens: Collection[int] = (),
        logprobs: int | None = None,
        as_drawn: bool = False,
        cache_salt: str = "",
        client: str = "",
        priority: int = 0,
        **sampling: Any,
    ) -> Generation:
        """The same piece by piece, as it is made: an iterator of text, which also knows what it cost.

        prompt: text (special tokens in it are understood), token ids, or messages for the chat template, whose own text
        never becomes special tokens.
        max_tokens: None for no limit but the context. stop: strings that end the answer. ignore_eos: do not let
        the model end it, unless a grammar does. context_shift: in a full context, forget its older half rather than
        stop. n_keep: tokens of the prompt to keep then; None for all, as far as they fill no more than half of it.
        lookup: guess tokens from the text so far and check several in one step. cache_prompt: begin with what was
        computed of other prompts and answers, and leave this one's to others. special: write control tokens out, or
        some of them. thinking: how long the model may reason. stop_tokens: ids that end the answer. logprobs: have the
        pieces of Generation.read tell the tokens' log probabilities, and so many of the likeliest ones; as_drawn: after
        the sampler's filters and temperature, rather than the model's own. cache_salt: only with others of the same
        one is anything shared. client, priority: where there are many answers, those of the lowest priority go first,
        and clients take turns. sampling: fields of SamplingParams.

        Several tokens in one step, and a prompt that goes on from what was computed of others, are rounded otherwise
        than token by token and in one piece: where two tokens are about as likely, the text may take another turn, as
        good as the first. exact: it does not: guesses are short enough to be computed as without, the whole prompt is
        computed anew, and no other answer in the same step.
        """
        params = SamplingParams(**sampling)
        if ignore_eos and not params.constrains:
            never = dict.fromkeys(self.tokenizer.eog_ids, float("-inf"))
            params = replace(params, logit_bias={**params.logit_bias, **never})
        tokens, source = self.prompt_tokens(prompt), list[int]()
        if self.model.graph.encoder:
            tokens, source = [self.model.decoder_start], tokens
        sampler = Sampler(params, self.tokenizer)
        if thinking:
            from .chat.thinking import BriefSampler

            sampler = BriefSampler(sampler, thinking, self.tokenizer)
        return Generation(
            self.scheduler,
            self.tokenizer,
            tokens,
            sampler,
            None if max_tokens is None else arguments.whole("max_tokens", max_tokens, 0),
            (stop,) if isinstance(stop, str) else arguments.texts("stop", () if stop is None else stop),
            speculation=partial(self._speculation, exact=exact) if lookup else None,
            shift=context_shift,
            special=special,
            n_keep=n_keep,
            source=source,
            tree=cache_salt if cache_prompt and not exact else None,
            alone=exact,
            stop_tokens=arguments.tokens("stop_tokens", stop_tokens, self.engine.n_vocab),
            n_logprobs=None if logprobs is None else min(arguments.whole("logprobs", logprobs, 0), self.engine.n_vocab),
            as_drawn=as_drawn,
            client=client,
            priority=arguments.whole("priority", priority),
        )

    def _speculation(self, text: Text, exact: bool) -> Speculation:
        """Guesses for one answer: of the draft model, or from the text so far."""
        most = {"most": self.engine.n_alike - 1} if exact else {}
        guesser: Guesser = PromptLookup(text)
        if self._draft:
            guesser = DraftModel(self._draft.engine, self._draft.n_bytes / self.n_bytes, text)
        return Speculation(guesser, self.engine.step_cost, **most)

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt. Text gets a BOS token where the model wants one and the text has none."""
        if not isinstance(prompt, str):
            if isinstance(prompt, bytes) or not isinstance(prompt, Sequence | np.ndarray):
                raise ValueError(f"prompt must be text, token ids or messages, not {prompt!r}")
            if not any(isinstance(item, Mapping) for item in prompt[:1]):
                return arguments.tokens("prompt", prompt, self.engine.n_vocab)
            prompt = self.render(cast("Sequence[Message]", prompt))
        text = prompt.marked if isinstance(prompt, Rendered) else prompt
        if self.model.graph.encoder:  # it reads whole texts, with their end
            return self.tokenizer.encode(text, parse_special=True)
        return self.tokenizer.encode_prompt(text)

    def infill_tokens(
        self,
        prefix: str,
        suffix: str,
        *,
        begun: str = "",
        files: Iterable[tuple[str, str]] = (),
        suffix_first: bool = False,
        max_tokens: int | None = None,
    ) -> list[int]:
        """Token ids of a prompt to fill in what comes between two parts of a text, to be given to `stream`.

        begun: what is there of it already. files: (name, text) of others of the project, the nearest last.
        suffix_first: for models that were trained so. max_tokens: room in the context to leave for the answer, None for
        a quarter of it. Raises TokenizerError where the model has no tokens for this.
        """
        n_ctx = self.engine.n_ctx
        room = n_ctx // 4 if max_tokens is None else min(arguments.whole("max_tokens", max_tokens, 0), n_ctx // 2)
        texts = (arguments.text(*given) for given in (("prefix", prefix), ("suffix", suffix)))
        return infill_prompt(
            self.tokenizer, *texts, begun=begun, files=files, suffix_first=suffix_first, n_most=n_ctx - room
        )

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
        return self.templates.exist

    def render(
        self, messages: Sequence[Message], *, tools: Iterable[Mapping[str, Any]] | None = None, **variables: Any
    ) -> Rendered:
        """A conversation as the text that the model's chat template makes of it, to be shown or given to `stream`.

        Raises ChatError where the model has no template, or the template refuses the conversation.
        """
        messages = arguments.objects("messages", messages)
        tools = None if tools is None else arguments.objects("tools", tools)
        return self.templates.render(messages, tools=tools, **variables)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text.

        add_special: with BOS and EOS where the model wants them. parse_special: where the text spells a special
        token, take that token.
        """
        return self.tokenizer.encode(arguments.text("text", text), add_special=add_special, parse_special=parse_special)

    def logits(self, text: str | Sequence[int]) -> np.ndarray:
        """f32[n_tokens, n_vocab]: after each token of the text, how much each token is expected next."""
        tokens = self.tokenize(text) if isinstance(text, str) else arguments.tokens("text", text, self.engine.n_vocab)
        if not tokens:
            raise ValueError("the text has no tokens")
        with self.engine.lock:
            return self.engine.step([Chunk(self.engine.new_sequence(), tokens, len(tokens))])

    def close(self) -> None:
        """End the threads and unmap the file."""
        if self._draft:
            self._draft.close()
        self.close_embedders()
        if self._scheduler:
            self._scheduler.engine.close()
        self.file.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _offload(
    layers: LayerCount,
    main_gpu: int | None,
    tensor_split: Sequence[float],
    override_tensors: Sequence[tuple[str, str]],
    offload_kv: bool,
) -> Offload:
    """What goes to GPUs, by LLM's arguments."""
    if layers not in ("auto", "all"):
        if isinstance(layers, str):
            raise ValueError(f"n_gpu_layers must be a number, 'all' or 'auto', not {layers!r}")
        layers = arguments.whole("n_gpu_layers", layers)
        layers = "all" if layers < 0 else layers
    tensor_split = arguments.several("tensor_split", tensor_split)
    shares = tuple(arguments.real("each of tensor_split", share) for share in tensor_split)
    if shares and (min(shares) < 0 or not sum(shares)):
        raise ValueError("tensor_split must be shares of 0 or more, and not all 0")
    override_tensors = arguments.several("override_tensors", override_tensors)
    pairs = [arguments.texts("each of override_tensors", pair) for pair in override_tensors]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("override_tensors must be pairs of a pattern and a device")
    gpu = None if main_gpu is None else arguments.whole("main_gpu", main_gpu, 0)
    return Offload(layers, gpu, shares, tuple((pattern, device) for pattern, device in pairs), not offload_kv)
