"""What second_truth.py runs where transformers is: make a small random model, have llama.cpp's own converter write it
as a GGUF file, and record what transformers computes.

transformers_models.py LLAMA_CPP FOLDER [NAME…]: FOLDER/NAME.gguf is the model, of all where none is named;
FOLDER/NAME.npz has a text, its tokens, and the logits (of an encoder: the hidden state) after each.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "README.md"  # tokenizers learn from it
_DENSE: dict[str, Any] = dict(
    vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
    max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=2,
)  # fmt: skip
_GROUPED = _DENSE | dict(num_key_value_heads=2, head_dim=16)
_EXPERTS = _GROUPED | dict(
    num_experts=8, num_local_experts=8, num_experts_per_tok=3, moe_intermediate_size=32, norm_topk_prob=True,
    tie_word_embeddings=False,
)  # fmt: skip
_MLA = _DENSE | dict(
    num_key_value_heads=4, q_lora_rank=48, kv_lora_rank=32, qk_rope_head_dim=16, qk_nope_head_dim=32, v_head_dim=24,
    n_routed_experts=8, n_shared_experts=2, num_experts_per_tok=3, n_group=4, topk_group=2, moe_intermediate_size=32,
    first_k_dense_replace=1, routed_scaling_factor=2.5, tie_word_embeddings=False,
)  # fmt: skip
_YARN = dict(
    rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=128, beta_fast=32,
        beta_slow=1, mscale=0.8, mscale_all_dim=0.8,
    )
)  # fmt: skip
_DELTA = dict(
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
    linear_conv_kernel_dim=4, shared_expert_intermediate_size=48, partial_rotary_factor=0.25,
)  # fmt: skip
_PLAIN = _DENSE | dict(num_key_value_heads=2)
_MAMBA = dict(mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16, mamba_n_groups=2, mamba_d_conv=4, mamba_expand=2)

#: Name → transformers' name of the architecture, and how this one differs from its defaults.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _GROUPED),
    "qwen3": ("qwen3", _GROUPED | dict(head_dim=32)),
    "gemma3": ("gemma3_text", _GROUPED | dict(num_hidden_layers=7, sliding_window=16, query_pre_attn_scalar=16)),
    "gemma2": ("gemma2", _GROUPED | dict(sliding_window=16, query_pre_attn_scalar=16)),
    "smollm3": ("smollm3", _GROUPED),
    "granite": ("granite", _PLAIN | dict(
        embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.0, attention_multiplier=0.2)),
    "seed-oss": ("seed_oss", _GROUPED),
    "apertus": ("apertus", _PLAIN),
    "arcee": ("arcee", _GROUPED),
    "ernie4_5": ("ernie4_5", _GROUPED),
    "hunyuan-dense": ("hunyuan_v1_dense", _GROUPED),
    "command-r": ("cohere", _PLAIN),
    "cohere2": ("cohere2", _PLAIN | dict(sliding_window=16, rotary_pct=1.0)),
    "nemotron": ("nemotron", _PLAIN),
    "stablelm": ("stablelm", _PLAIN),
    "starcoder2": ("starcoder2", _PLAIN),
    "phi2": ("phi", _DENSE | dict(intermediate_size=256)),
    "falcon": ("falcon", _DENSE | dict(new_decoder_architecture=True, num_kv_heads=2)),
    "qwen2moe": ("qwen2_moe", _EXPERTS | dict(norm_topk_prob=False, shared_expert_intermediate_size=48)),
    "olmoe": ("olmoe", _EXPERTS | dict(norm_topk_prob=False)),
    "mamba": ("mamba", _DENSE | dict(state_size=16, intermediate_size=128)),
    "olmo2": ("olmo2", _GROUPED),
    "qwen3moe": ("qwen3_moe", _EXPERTS),
    "mixtral": ("mixtral", _EXPERTS | dict(num_experts_per_tok=2)),
    "gpt-oss": ("gpt_oss", _EXPERTS | dict(head_dim=64, sliding_window=16)),
    "deepseek2": ("deepseek_v2", _MLA | _YARN | dict(scoring_func="softmax", n_group=1, topk_group=1)),
    "deepseek3": ("deepseek_v3", _MLA | _YARN | dict(scoring_func="sigmoid", norm_topk_prob=True)),
    "lfm2": ("lfm2", _GROUPED | dict(full_attn_idxs=[1, 3], block_auto_adjust_ff_dim=False)),
    "granitehybrid": (
        "granitemoehybrid",
        _GROUPED | _MAMBA | dict(
            layer_types=["mamba", "attention"] * 2, num_local_experts=8, num_experts_per_tok=3,
            shared_intermediate_size=48, embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.0,
            attention_multiplier=0.2, position_embedding_type="nope",
        ),
    ),
    "qwen3next": ("qwen3_next", _EXPERTS | _DELTA),
    "falcon-h1": ("falcon_h1", _GROUPED | _MAMBA | dict(mamba_d_ssm=128)),
    "mamba2": ("mamba2", _DENSE | dict(
        num_heads=8, head_dim=16, state_size=16, n_groups=2, chunk_size=32, conv_kernel=4, intermediate_size=128)),
    "bert": ("bert", _DENSE),
    "modern-bert": ("modernbert", _DENSE | dict(
        local_attention=16, layer_norm_eps=1e-5, cls_token_id=0, sep_token_id=1)),
}  # fmt: skip
#: What the converter has to be told besides.
CONVERTER = {"qwen3next": ["--no-mtp"]}
_ENCODERS = "bert", "modernbert"


def make(name: str, folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer, saved in a folder."""
    from torch import manual_seed
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    manual_seed(1)
    kind, settings = MODELS[name]
    config = AutoConfig.for_model(kind, **settings)
    family = AutoModel if kind in _ENCODERS else AutoModelForCausalLM
    model = family.from_config(config, attn_implementation="eager").float().eval()
    _randomise(model)
    model.save_pretrained(folder)
    saved = folder / "config.json"  # where transformers has renamed what published models, and the converter, name so
    saved.write_text(json.dumps(json.loads(saved.read_text("utf-8")) | settings), "utf-8")
    tokenizer = _tokenizer(kind)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def _randomise(model: Any) -> None:
    """transformers begins with weights so small and norms so regular that every token would have the same logits."""
    from torch import no_grad, randn_like

    with no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter += 0.2 * randn_like(parameter)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)


def _tokenizer(kind: str) -> Any:
    """Byte-level BPE, or BERT's WordPiece, of 512 tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if kind == "bert":
        special = ["[CLS]", "[SEP]", "[PAD]", "[UNK]"]
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=512, special_tokens=special)
        names = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        special = ["<bos>", "<eos>", "<pad>"]
        trainer = trainers.BpeTrainer(
            vocab_size=512, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        names = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
        if kind == "modernbert":
            names |= dict(cls_token="<bos>", sep_token="<eos>")
    tokenizer.train([str(SOURCE)], trainer)
    if kind in _ENCODERS:
        first, last = names["cls_token"], names["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", special_tokens=[(first, 0), (last, 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def record(model: Any, tokenizer: Any, path: Path) -> None:
    import numpy as np
    from torch import no_grad, tensor

    text = SOURCE.read_text("utf-8")[2000:2300]
    tokens = tokenizer.encode(text)
    with no_grad():
        output = model(tensor([tokens]))
    rows = output.logits if "logits" in output else output.last_hidden_state
    np.savez(path, text=text, tokens=np.array(tokens), rows=rows[0].numpy())


def convert(llama_cpp: Path, folder: Path, out: Path) -> None:
    """Run the converter, with byte-level BPE for all; it knows what comes before that by a hash of a text's tokens,
    which no new vocabulary can have."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    TextModel._set_vocab_sentencepiece = TextModel._set_vocab_gpt2
    script = llama_cpp / "convert_hf_to_gguf.py"
    sys.argv = [str(script), str(folder), "--outtype", "f32", "--outfile", str(out), *CONVERTER.get(out.stem, ())]
    runpy.run_path(str(script), run_name="__main__")


def main() -> None:
    llama_cpp, folder, *names = sys.argv[1:]
    for name in names or MODELS:
        record(*make(name, Path(folder, name)), Path(folder, f"{name}.npz"))
        convert(Path(llama_cpp), Path(folder, name), Path(folder, f"{name}.gguf"))


if __name__ == "__main__":
    main()
