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
    "llama": "llama",
    "mistral3": "llama",
    "internlm2": "llama",
    "xverse": "llama",
    "llada": "llama",
    "pangu-embedded": "llama",
    "cogvlm": "llama",
    "refact": "llama",
    "baichuan": "llama",
    "llama4": "llama4",
    "qwen": "qwen",
    "qwen2": "qwen",
    "qwen2moe": "qwen",
    "qwen2vl": "qwen",
    "qwen3": "qwen",
    "qwen3moe": "qwen",
    "qwen3vl": "qwen",
    "qwen3vlmoe": "qwen",
    "dream": "qwen",
    "rnd1": "qwen",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "phi2": "phi",
    "phi3": "phi",
    "phimoe": "phi",
    "gpt-oss": "gpt_oss",
    "smollm3": "smollm3",
    "granite": "granite",
    "granitemoe": "granite",
    "granite_swa": "granite",
    "chatglm": "glm",
    "glm4": "glm",
    "glm4moe": "glm",
    "olmo": "olmo",
    "olmo2": "olmo",
    "olmoe": "olmo",
    "command-r": "cohere",
    "cohere2": "cohere",
    "exaone": "exaone",
    "exaone4": "exaone",
    "exaone-moe": "exaone",
    "ernie4_5": "ernie",
    "ernie4_5-moe": "ernie",
    "paddleocr": "ernie",
    "hunyuan-dense": "hunyuan",
    "hunyuan-moe": "hunyuan",
    "hunyuan_vl": "hunyuan",
    "seed_oss": "seed_oss",
    "stablelm": "stablelm",
    "gpt2": "gpt",
    "starcoder": "gpt",
    "starcoder2": "gpt",
    "codeshell": "gpt",
    "gptneox": "gpt",
    "bloom": "gpt",
    "mpt": "gpt",
    "jais": "gpt",
    "nemotron": "gpt",
    "orion": "gpt",
    "falcon": "falcon",
    "apertus": "apertus",
    "deepseek": "deepseek",
    "deepseek2": "deepseek",
    "deepseek2-ocr": "deepseek",
    "deepseek32": "deepseek",
    "glm-dsa": "deepseek",
    "mistral4": "deepseek",
    "minicpm": "minicpm",
    "minicpm3": "minicpm",
    "plm": "plm",
    "falcon-h1": "hybrid",
    "granitehybrid": "hybrid",
    "jamba": "hybrid",
    "nemotron_h": "hybrid",
    "nemotron_h_moe": "hybrid",
    "lfm2": "lfm2",
    "lfm2moe": "lfm2",
    "mamba": "mamba",
    "mamba2": "mamba",
    "minimax-01": "minimax",
    "plamo2": "plamo2",
    "qwen35": "qwen_next",
    "qwen35moe": "qwen_next",
    "qwen3next": "qwen_next",
    "arwkv7": "rwkv",
    "rwkv6": "rwkv",
    "rwkv6qwen2": "rwkv",
    "rwkv7": "rwkv",
    "bert": "bert",
    "nomic-bert": "bert",
    "nomic-bert-moe": "bert",
    "jina-bert-v2": "bert",
    "jina-bert-v3": "bert",
    "modern-bert": "encoders",
    "neo-bert": "encoders",
    "eurobert": "encoders",
    "llama-embed": "encoders",
    "gemma-embedding": "gemma",
    "t5": "t5",
    "t5encoder": "t5",
    "llada-moe": "llama",
    "dots1": "dots",
    "dots3note": "dots",
    "bailingmoe": "bailing",
    "bailingmoe2": "bailing",
    "smallthinker": "smallthinker",
    "grok": "grok",
    "arcee": "arcee",
    "afmoe": "arcee",
    "bitnet": "bitnet",
    "deci": "deci",
    "openelm": "openelm",
    "plamo": "plamo",
    "plamo3": "plamo",
    "maple": "maple",
    "muse-glimmer": "muse_glimmer",
    "laguna": "laguna",
    "mimo2": "mimo2",
    "step35": "step35",
    "nanbeige": "nanbeige",
    "grovemoe": "grovemoe",
    "minimax-m2": "minimax",
    "minimax-m3": "minimax",
    "hrm_text": "hrm_text",
    "bailingmoe3": "kimi",
    "kimi-linear": "kimi",
    "kimi-k3": "kimi",
    "gemma3n": "gemma3n",
    "gemma4": "gemma4",
    "hy_v4": "hy_v4",
    "maincoder": "maincoder",
    "mellum": "mellum",
    "talkie": "talkie",
    "arctic": "arctic",
    "dbrx": "dbrx",
    "cohere2moe": "cohere",
    "jais2": "gpt",
    "hy_v3": "hunyuan",
    "spark2_5": "spark",
    "deepseek4": "deepseek4",
    "glm5-next": "glm5_next",
    "qwen4exp": "qwen4exp",
}


class Model:
    """A file's model, for texts of up to n_ctx tokens (0 for what it was trained for).

    graph: from token ids to logits, or what `result` asks for; layers in their order. pooling: what the file names for
    embeddings. causal: whether a text can be given piece by piece. Raises ModelError where something in the file is
    not supported: nothing is left out.
    """

    def __init__(self, file: GGUFFile, write: Callable[[Layers], None], n_ctx: int, result: Result) -> None:
        w = HParams(file)
        self.n_ctx_train = w.count("context_length")
        self.pooling: Result = pooling.named(w)
        layers = Layers(w, n_ctx or self.n_ctx_train, result)
        write(layers)
        w.check_all_used()
        self.causal = layers.causal
        self.n_layer, self.n_vocab = layers.n_layer, layers.n_vocab
        self.graph: Graph = layers.graph


def load(file: GGUFFile, n_ctx: int = 0, result: Result = "") -> Model:
    """Read the model in a file, to give this result.

    Raises ModelError where its architecture, or something in it, is not supported.
    """
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(f"{file.path}: architecture {name!r} is not supported; ggrun runs {', '.join(FAMILIES)}")
    module = importlib.import_module(f".{FAMILIES[name]}", __name__)
    return Model(file, getattr(module, name.replace("-", "_")), n_ctx, result)


__all__ = ["FAMILIES", "Model", "ModelError", "Result", "load"]
