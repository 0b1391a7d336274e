"""Models of the conformance kit through the engine, one of each kind; `make test-models` runs all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import kit, models
from tests.paths import needs

KINDS = (
    "llama",
    "gpt2",  # learned positions, biases
    "mpt",  # ALiBi
    "gemma2-27b",  # windows, soft caps
    "command-r-plus",  # parallel blocks
    "phi3-longrope",
    "mixtral",  # experts
    "qwen2moe",  # and one that all tokens pass
    "gpt-oss",  # experts with biases, sinks
    "deepseek2",  # latent attention, experts in groups
    "llama4",  # weighted input, chunks
    "grovemoe",  # experts that share smaller ones
)


@needs(kit.KIT)
@pytest.mark.parametrize("name", KINDS)
def test_logits_as_in_llama_cpp(name: str, tmp_path: Path) -> None:
    result = models.check(name, tmp_path, weights=["F32"])
    assert result.passed, str(result)
