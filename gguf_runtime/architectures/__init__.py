"""Model architectures, one file a family: each reads hyperparameters and writes the graph.

`load(file)` finds the architecture that a file names and reads it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ..graph import Graph
from ..loader import GGUFFile
from . import pooling
from .hparams import HParams, ModelError
from .layers import Layers
from .pooling import Result

#: `general.architecture` → the module with a function of that name (dashes as underscores) that writes the graph.
FAMILIES = {
    "afmoe": "arcee",
    "apertus": "apertus",
    "arcee": "arcee",
    "arctic": "arctic",
    "arwkv7": "rwkv7",
    "baichuan": "llama",
    "bailingmoe": "bailing",
    "bailingmoe2": "bailing",
    "bailingmoe3": "kimi",
    "bert": "bert",
    "bitnet": "bitnet",
    "bloom": "gpt",
    "chameleon": "chameleon",
    "chatglm": "glm",
    "codeshell": "gpt",
    "cogvlm": "llama",
    "cohere2": "cohere",
    "cohere2moe": "cohere",
    "command-r": "cohere",
    "dbrx": "dbrx",
    "deci": "deci",
    "deepseek": "deepseek",
    "deepseek2": "deepseek",
    "deepseek2-ocr": "deepseek",
    "deepseek32": "deepseek",
    "deepseek4": "deepseek4",
    "dots1": "dots",
    "dots3note": "dots",
    "dream": "qwen",
    "ernie4_5": "ernie",
    "ernie4_5-moe": "ernie",
    "eurobert": "encoders",
    "exaone": "exaone",
    "exaone-moe": "exaone",
    "exaone4": "exaone",
    "falcon": "falcon",
    "falcon-h1": "hybrid",
    "gemma": "gemma",
    "gemma-embedding": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "gemma3n": "gemma3n",
    "gemma4": "gemma4",
    "glm-dsa": "deepseek",
    "glm4": "glm",
    "glm4moe": "glm",
    "glm5-next": "glm5_next",
    "gpt-oss": "gpt_oss",
    "gpt2": "gpt",
    "gptneox": "gpt",
    "granite": "granite",
    "granite_swa": "granite",
    "granitehybrid": "hybrid",
    "granitemoe": "granite",
    "grok": "grok",
    "grovemoe": "grovemoe",
    "hrm_text": "hrm_text",
    "hunyuan-dense": "hunyuan",
    "hunyuan-moe": "hunyuan",
    "hunyuan_vl": "hunyuan",
    "hy_v3": "hunyuan",
    "hy_v4": "hy_v4",
    "internlm2": "llama",
    "jais": "gpt",
    "jais2": "gpt",
    "jamba": "hybrid",
    "jina-bert-v2": "bert",
    "jina-bert-v3": "bert",
    "kimi-k3": "kimi",
    "kimi-linear": "kimi",
    "laguna": "laguna",
    "lfm2": "lfm2",
    "lfm2moe": "lfm2",
    "llada": "llama",
    "llada-moe": "llama",
    "llama": "llama",
    "llama-embed": "encoders",
    "llama4": "llama4",
    "maincoder": "maincoder",
    "mamba": "mamba",
    "mamba2": "mamba",
    "maple": "maple",
    "mellum": "mellum",
    "mimo2": "mimo2",
    "minicpm": "minicpm",
    "minicpm3": "minicpm",
    "minimax-01": "minimax",
    "minimax-m2": "minimax",
    "minimax-m3": "minimax",
    "mistral3": "llama",
    "mistral4": "deepseek",
    "modern-bert": "encoders",
    "mpt": "gpt",
    "muse-glimmer": "muse_glimmer",
    "nanbeige": "nanbeige",
    "nemotron": "gpt",
    "nemotron_h": "hybrid",
    "nemotron_h_moe": "hybrid",
    "neo-bert": "encoders",
    "nomic-bert": "bert",
    "nomic-bert-moe": "bert",
    "olmo": "olmo",
    "olmo2": "olmo",
    "olmoe": "olmo",
    "openelm": "openelm",
    "orion": "gpt",
    "paddleocr": "ernie",
    "pangu-embedded": "llama",
    "phi2": "phi",
    "phi3": "phi",
    "phimoe": "phi",
    "plamo": "plamo",
    "plamo2": "plamo2",
    "plamo3": "plamo",
    "plm": "plm",
    "qwen": "qwen",
    "qwen2": "qwen",
    "qwen2moe": "qwen",
    "qwen2vl": "qwen",
    "qwen3": "qwen",
    "qwen35": "qwen_next",
    "qwen35moe": "qwen_next",
    "qwen3moe": "qwen",
    "qwen3next": "qwen_next",
    "qwen3vl": "qwen",
    "qwen3vlmoe": "qwen",
    "qwen4exp": "qwen4exp",
    "refact": "llama",
    "rnd1": "qwen",
    "rwkv6": "rwkv6",
    "rwkv6qwen2": "rwkv6",
    "rwkv7": "rwkv7",
    "seed_oss": "seed_oss",
    "smallthinker": "smallthinker",
    "smollm3": "smollm3",
    "spark2_5": "spark",
    "stablelm": "stablelm",
    "starcoder": "gpt",
    "starcoder2": "gpt",
    "step35": "step35",
    "t5": "t5",
    "t5encoder": "t5",
    "talkie": "talkie",
    "xverse": "llama",
}


class Model:
    """A file's model, for texts of up to n_ctx tokens (0 for what it was trained for).

    graph: from token ids to `result`; layers in their order. pooling: what the file names for embeddings. causal:
    whether tokens see only those before them. decoder_start: the token that a decoder after an encoder begins with.
    Raises ModelError where something in the file is not supported: nothing is left out.
    """

    def __init__(self, file: GGUFFile, write: Callable[[Layers], None], n_ctx: int, result: Result) -> None:
        w = HParams(file)
        self.n_ctx_train = w.count("context_length")
        self.pooling: Result = pooling.named(w)
        layers = Layers(w, n_ctx or self.n_ctx_train, result)
        write(layers)
        w.check_all_used()
        self.causal, self.result, self.decoder_start = layers.causal, layers.result, layers.decoder_start
        self.n_layer, self.n_vocab = layers.n_layer, layers.n_vocab
        self.graph: Graph = layers.graph

    @property
    def generates(self) -> bool:
        """Whether it tells what comes next."""
        return self.causal and self.result == "logits"

    @property
    def whole(self) -> bool:
        """Whether a text must be given in one piece: tokens see those after them, or it becomes one row."""
        return not self.causal or self.graph.result.rows == "sequence"


def load(file: GGUFFile, n_ctx: int = 0, result: Result = "") -> Model:
    """Read the model in a file, to give this result.

    Raises ModelError where its architecture, or something in it, is not supported.
    """
    name = file.metadata.get("general.architecture")
    if name is None:
        raise ModelError(f"{file.path}: the metadata lack general.architecture")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(f"{file.path}: architecture {name!r} is not supported; ggrun runs {', '.join(FAMILIES)}")
    module = importlib.import_module(f".{FAMILIES[name]}", __name__)
    return Model(file, getattr(module, name.replace("-", "_")), n_ctx, result)


__all__ = ["FAMILIES", "Model", "ModelError", "Result", "load"]
