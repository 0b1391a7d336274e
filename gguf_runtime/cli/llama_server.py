"""llama-server's options, and what becomes of each in `ggrun serve`, as far as that is not as in `ggrun run`."""

from __future__ import annotations

from typing import Literal

Fate = Literal["done", "no effect", "refused"]

#: Of those that `ggrun serve` has not: what happens, why, options, one on a line.
TABLE: tuple[tuple[Fate, str, str], ...] = (
    ("no effect", "every model that can gives embeddings", "--embedding, --embeddings"),
    ("no effect", "a reranker's file says that it is one", "--rerank, --reranking"),
    ("no effect", "what prompts begin with in common is computed once, as far as there is memory", """
        --cache-prompt
        --cache-reuse N
        --cache-idle-slots
        --no-cache-idle-slots
        -sps, --slot-prompt-similarity N
        --kv-unified-per-slot N
    """),
    ("no effect", "answers are made together anyhow", "-cb, --cont-batching\n-nocb, --no-cont-batching"),
    ("no effect", "one thread speaks HTTP, and each engine has a process of its own", "--threads-http N"),
    ("no effect", "a last message of the assistant is gone on with", "--prefill-assistant"),
    ("no effect", "that is how it is", """
        --no-cors-credentials
        --no-ui-mcp-proxy, --no-webui-mcp-proxy
        -no-ag, --no-agent
    """),
    ("refused", "a request says `\"cache_prompt\": false`", "--no-cache-prompt"),
    ("refused", "a request says `\"add_generation_prompt\": true`", "--no-prefill-assistant"),
    ("refused", "properties are given at the start, with these options", "--props"),
    ("refused", "there are no slots: pages are shared by what they contain, and are not kept on disk",
     "--slot-save-path FOLDER"),
    ("refused", "what pages of others may do is settled but for their names: --cors-origins", """
        --cors-methods METHODS
        --cors-headers HEADERS
        --cors-credentials
    """),
    ("refused", "a proxy in front of ggrun speaks TLS", "--ssl-key-file FILE\n--ssl-cert-file FILE"),
    ("refused", "the page is ggrun's own", """
        --path FOLDER
        --ui-config, --webui-config JSON
        --ui-config-file, --webui-config-file FILE
    """),
    ("refused", "the server runs no tools, and asks no other servers: that is the clients' business", """
        --tools NAMES
        --tools-runtime OPTION
        --mcp-servers-config FILE
        --mcp-servers-json JSON
        --ui-mcp-proxy, --webui-mcp-proxy
        -ag, --agent
        --server-base URL
    """),
    ("refused", "`ggrun create` makes a model with settings of its own, and --all serves all", """
        --models-dir FOLDER
        --models-preset FILE
    """),
    ("refused", "an address is listened at by one server", "--reuse-port"),
    ("refused", "streams that are silent say so every second", "--sse-ping-interval N"),
    ("refused", "ggrun reads text only", "--media-path FOLDER"),
    ("refused", "guesses come from the text so far, or from a draft model",
     "-lcs, --lookup-cache-static FILE\n-lcd, --lookup-cache-dynamic FILE"),
    ("refused", "LoRA adapters are not supported; merge one into the model with llama-export-lora",
     "--lora-init-without-apply"),
)  # fmt: skip
