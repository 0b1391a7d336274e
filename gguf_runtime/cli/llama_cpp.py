"""llama.cpp's options, and what becomes of each here: the one table that the command line and the docs go by.

As of November 2026: those of llama-cli and llama-completion, and the names of llama-server's. It is read when a command
meets an option that it does not know. `python -m gguf_runtime.cli.llama_cpp` prints docs/llama-cpp-options.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from . import llama_server
from .llama_server import Fate

_SWITCH = re.compile(r"on|off|auto|true|false|enabled|disabled|-?1|0")  # what a value in brackets can be


class Row(NamedTuple):
    """names: an option's, and after `value` what follows it, such as N, or [on|off] where it may be left out.

    why: the reason, and the nearest way; a remark, or nothing, for what is done.
    """

    names: tuple[str, ...]
    value: str
    fate: Fate
    why: str

    def n_values(self, following: list[str]) -> int:
        """How many of the arguments that follow belong to the option."""
        if self.value.startswith("["):
            return int(bool(following) and _SWITCH.fullmatch(following[0]) is not None)
        return len(self.value.split())


#: (what happens, why, options: one on a line)
_TABLE: tuple[tuple[Fate, str, str], ...] = (
    ("done", "", """
        -h, --help, --usage
        --version
        -t, --threads N
        -c, --ctx-size N
        -b, --batch-size N
        -ub, --ubatch-size N
        -p, --prompt PROMPT
        -bf, --binary-file FILE
        -e, --escape
        --no-escape
        --spm-infill
        -ot, --override-tensor PATTERN=DEVICE
        -cmoe, --cpu-moe
        -ncmoe, --n-cpu-moe N
        -ngl, --gpu-layers, --n-gpu-layers N
        -ts, --tensor-split N0,N1,...
        -kvo, --kv-offload
        -nkvo, --no-kv-offload
        --mmap
        --no-mmap
        --list-devices
        --override-kv KEY=TYPE:VALUE,...
        --rope-scale N
        --rope-freq-base N
        --rope-freq-scale N
        --yarn-orig-ctx N
        --yarn-ext-factor N
        --yarn-attn-factor N
        --yarn-beta-slow N
        --yarn-beta-fast N
        -hf, -hfr, --hf-repo OWNER/REPO[:QUANT]
        -hff, --hf-file FILE
        -hft, --hf-token TOKEN
        -mu, --model-url URL
        --offline
        -v, --verbose, --log-verbose
        -sys, --system-prompt PROMPT
        -sysf, --system-prompt-file FILE
        -o, --output, --output-file FILE
        -md, --model-draft, --spec-draft-model MODEL
        -hfd, -hfrd, --hf-repo-draft, --spec-draft-hf OWNER/REPO[:QUANT]
        --prompt-cache FILE
        --prompt-cache-ro
        --context-shift
        --no-context-shift
        --chat-template-kwargs JSON
        --reasoning-budget-message TEXT
        --reasoning-effort LEVEL
        -s, --seed N
        --ignore-eos
        --temp, --temperature N
        --top-k N
        --top-p N
        --min-p N
        --top-nsigma, --top-n-sigma N
        --xtc-probability N
        --xtc-threshold N
        --typical, --typical-p N
        --repeat-last-n N
        --repeat-penalty N
        --presence-penalty N
        --frequency-penalty N
        --dry-multiplier N
        --dry-base N
        --dry-allowed-length N
        --dry-penalty-last-n N
        --dry-sequence-breaker TEXT
        --dynatemp-range N
        --dynatemp-exp N
        --mirostat N
        --mirostat-lr N
        --mirostat-ent N
        --samplers NAMES
        --sampler-seq, --sampling-seq LETTERS
        -l, --logit-bias ID+X
        --grammar GRAMMAR
        --grammar-file FILE
        -j, --json-schema SCHEMA
        -jf, --json-schema-file FILE
    """),
    ("done", "a path, or a name: llama3.2:1b, hf:OWNER/REPO, ollama:NAME, a URL", "-m, --model MODEL"),
    ("done", "`-f -` reads standard input", "-f, --file FILE"),
    ("done", "-1 for no limit, -2 for until the context is full, whatever --context-shift says",
     "-n, --predict, --n-predict N"),
    ("done", "prompts and answers are computed by the same threads: the larger of -t and -tb counts",
     "-tb, --threads-batch N"),
    ("done", "how much of the prompt --context-shift keeps; by default all, as far as it fits half the context",
     "--keep N"),
    ("done", "f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl",
     "-ctk, --cache-type-k TYPE\n-ctv, --cache-type-v TYPE"),
    ("done", "without --rope-scaling, a factor stretches linearly unless the model says otherwise",
     "--rope-scaling none|linear|yarn"),
    ("done", "where the system lets it; otherwise a warning", "--mlock"),
    ("done", "dio is as none", "-lm, --load-mode auto|none|mmap|mlock|mmap+mlock|dio"),
    ("done", "none, or GPUs in their order, such as CUDA0,CUDA2", "-dev, --device NAMES"),
    ("done", "the only GPU to use", "-mg, --main-gpu N"),
    ("done", "none and layer; row and tensor are refused", "-sm, --split-mode MODE"),
    ("done", "the text that ends the answer is not shown", "-r, --reverse-prompt TEXT"),
    ("done", "the prompt is not shown unless it is asked for", "--display-prompt\n--no-display-prompt"),
    ("done", "a chat, with -p as its first message; without -cnv a prompt is answered, and that is all",
     "-cnv, --conversation"),
    ("done", "the bare text, without a chat template, as --raw", "-no-cnv, --no-conversation"),
    ("done", "a chat of one message; a prompt with -p is that already", "-st, --single-turn"),
    ("done", "Enter begins a new line, and after a backslash sends", "-mli, --multiline-input"),
    ("done", "each message stands between the two, without a chat template",
     "--in-prefix TEXT\n--in-prefix-bos\n--in-suffix TEXT"),
    ("done", "a name, such as chatml, a file, or Jinja itself",
     "--chat-template TEMPLATE\n--chat-template-file FILE"),
    ("done", "auto is deepseek in a chat and none elsewhere; --json has the reasoning apart from the text",
     "--reasoning-format none|deepseek|deepseek-legacy|auto"),
    ("done", "tells the template to have the model think, or not", "-rea, --reasoning on|off|auto"),
    ("done", "0 also tells the template that the model shall not think", "--reasoning-budget N"),
    ("done", "here the name of the draft model; how far to guess is found out while it runs", "--draft MODEL"),

    ("no effect", "the prompt is not shown unless it is asked for, and timings come with -v",
     "--perf\n--no-perf\n--show-timings\n--no-show-timings"),
    ("no effect", "a terminal gets colours where they help", "-co, --color [on|off|auto]\n--log-colors [on|off|auto]"),
    ("no effect", "nothing is run before the prompt", "--warmup\n--no-warmup"),
    ("no effect", "attention never stores its scores", "-fa, --flash-attn [on|off|auto]"),
    ("no effect", "chat templates are always Jinja", "--jinja"),
    ("no effect", "there is no log; -v tells more, on standard error", """
        --log-disable
        -lv, --verbosity, --log-verbosity N
        --log-prefix
        --no-log-prefix
        --log-timestamps
        --no-log-timestamps
        --no-log-jsonl
    """),
    ("no effect", "pipes and plain terminals are seen", "--simple-io"),
    ("no effect", "as many layers go to a GPU as fit unless -ngl says how many",
     "-fit, --fit [on|off]\n-fitt, --fit-target N\n-fitc, --fit-ctx N"),
    ("no effect", "the draft's layers go to a GPU as they fit",
     "-ngld, --gpu-layers-draft, --n-gpu-layers-draft, --spec-draft-ngl N"),
    ("no effect", "how far to guess is found out while it runs; the text is the same", """
        --draft-n, --draft-max N
        --draft-min, --draft-n-min N
        --spec-draft-n-max N
        --spec-draft-n-min N
        --draft-p-split, --spec-draft-p-split N
        --draft-p-min, --spec-draft-p-min N
        --spec-draft-sampling KIND
        --spec-type KINDS
        --spec-default
        --spec-draft-backend-sampling
        --no-spec-draft-backend-sampling
        --spec-ngram-mod-n-min N
        --spec-ngram-mod-n-max N
        --spec-ngram-mod-n-match N
        --spec-ngram-simple-size-n N
        --spec-ngram-simple-size-m N
        --spec-ngram-simple-min-hits N
        --spec-ngram-map-k-size-n N
        --spec-ngram-map-k-size-m N
        --spec-ngram-map-k-min-hits N
        --spec-ngram-map-k4v-size-n N
        --spec-ngram-map-k4v-size-m N
        --spec-ngram-map-k4v-min-hits N
    """),
    ("no effect", "the draft model runs on the threads of -t", """
        -td, --threads-draft, --spec-draft-threads N
        -tbd, --threads-batch-draft, --spec-draft-threads-batch N
        --cpu-strict-draft, --spec-draft-cpu-strict N
        --cpu-strict-batch-draft, --spec-draft-cpu-strict-batch N
        --poll-draft, --spec-draft-poll N
        --poll-batch-draft, --spec-draft-poll-batch N
    """),
    ("no effect", "threads wait in a way that suits the machine",
     "--poll N\n--poll-batch N\n--cpu-strict N\n--cpu-strict-batch N"),
    ("no effect", "weights are used where they lie in the file",
     "--repack\n-nr, --no-repack\n--no-host\n-dio, --direct-io\n-ndio, --no-direct-io\n-lzm, --lazy-mode on|off|auto"),
    ("no effect", "weights in RAM come to the GPU where that is faster", "--op-offload"),
    ("no effect", "tokens are drawn on the CPU, which takes next to no time", "-bs, --backend-sampling"),
    ("no effect", "the cache has pages, which are not defragmented, and is not sized by sequences", """
        -dt, --defrag-thold N
        --swa-full
        -ctxcp, --ctx-checkpoints, --swa-checkpoints N
        -cms, --checkpoint-min-step N
        -cram, --cache-ram N
        -kvu, --kv-unified
        -no-kvu, --no-kv-unified
    """),
    ("no effect", "--prompts answers many prompts at a time by itself",
     "-np, --parallel N\n-cb, --cont-batching\n-nocb, --no-cont-batching"),
    ("no effect", "text only: there is nothing to project",
     "--mmproj-auto\n--no-mmproj, --no-mmproj-auto\n--mmproj-offload\n--no-mmproj-offload"),
    ("no effect", "reasoning is told from the answer anyhow", "--no-skip-chat-parsing"),

    ("refused", "`ggrun list` shows the models on this machine", "-cl, --cache-list"),
    ("refused", "`ggrun completion bash` prints the script", "--completion-bash"),
    ("refused", "--display-prompt shows the prompt, and `ggrun tokenize` its tokens", "--verbose-prompt"),
    ("refused", "--jsonl tells every token of the answer, special ones too", "-sp, --special"),
    ("refused", "-v tells the number of tokens at the end, --jsonl each token", "-ptc, --print-token-count N"),
    ("refused", "only what is computed of the prompt can be kept: --prompt-cache", "--prompt-cache-all"),
    ("refused", "-cnv talks with the model", "-i, --interactive\n-if, --interactive-first"),
    ("refused", "templates are always Jinja; --chat-template NAME takes another, -no-cnv none", "--no-jinja"),
    ("refused", "--reasoning-format none leaves the answer as it is", "--skip-chat-parsing"),
    ("refused", "templates that know of this take it from --chat-template-kwargs",
     "--reasoning-preserve\n--no-reasoning-preserve"),
    ("refused", "there is no log; 2> FILE keeps what goes to standard error", "--log-file FILE"),
    ("refused", "there is no log; --json and --jsonl write the answer as JSON", "--log-jsonl"),
    ("refused", "prompts are not logged; --display-prompt with -o FILE keeps one", "--log-prompts-dir FOLDER"),
    ("refused", "threads are not bound to processors; start ggrun with taskset", """
        -C, --cpu-mask M
        -Cr, --cpu-range LO-HI
        -Cb, --cpu-mask-batch M
        -Crb, --cpu-range-batch LO-HI
        -Cd, --cpu-mask-draft, --spec-draft-cpu-mask M
        -Crd, --cpu-range-draft, --spec-draft-cpu-range LO-HI
        -Cbd, --cpu-mask-batch-draft, --spec-draft-cpu-mask-batch M
        -Crbd, --cpu-range-batch-draft LO-HI
    """),
    ("refused", "`ggrun embed` gives embeddings, `ggrun rerank` ranks texts", """
        --embedding, --embeddings
        --pooling TYPE
        --rerank, --reranking
    """),
    ("refused", "`ggrun embed` makes vectors of length 1, and with --no-normalize leaves them", "--embd-normalize N"),
    ("refused", "`ggrun embed` writes --json, --jsonl or --npy", "--embd-output-format FORMAT"),
    ("refused", "each argument of `ggrun embed` is a text, and each line of its -f", "--embd-separator TEXT"),
    ("refused", "`ggrun rerank QUERY TEXT...` takes them one by one", "--cls-separator TEXT"),
    ("refused", "the priority stays as it is; start ggrun with nice", """
        --prio N
        --prio-batch N
        --prio-draft, --spec-draft-prio N
        --prio-batch-draft, --spec-draft-prio-batch N
    """),
    ("refused", "memory is not placed by node; start ggrun with numactl", "--numa TYPE"),
    ("refused", "ggrun runs on one machine", "--rpc SERVERS"),
    ("refused", "the draft model is placed by itself", """
        -devd, --device-draft, --spec-draft-device NAMES
        -otd, --override-tensor-draft, --spec-draft-override-tensor PATTERN=DEVICE
        -cmoed, --cpu-moe-draft, --spec-draft-cpu-moe
        -ncmoed, --n-cpu-moe-draft, --spec-draft-n-cpu-moe, --spec-draft-ncmoe N
    """),
    ("refused", "the draft model's cache is f16", """
        -ctkd, --cache-type-k-draft, --spec-draft-type-k TYPE
        -ctvd, --cache-type-v-draft, --spec-draft-type-v TYPE
    """),
    ("refused", r"-ot 'blk\.[0-7]\.ffn_(up|down|gate)\.=CPU' keeps those of the first 8 layers in RAM",
     "-ncffn, --n-cpu-ffn N"),
    ("refused", "acceptance is not made up", "--spec-synth-len N\n--spec-synth-rates P0,P1,..."),
    ("refused", "that weights in RAM come to the GPU cannot be turned off; -ngl 0 computes on the CPU alone",
     "--no-op-offload"),
    ("refused", "weights are not searched for NaN; a pull is checked by its SHA-256", "--check-tensors"),
    ("refused", "LoRA adapters are not supported; merge one into the model with llama-export-lora",
     "--lora FILE\n--lora-scaled FILE:SCALE,..."),
    ("refused", "control vectors are not supported", """
        --control-vector FILE
        --control-vector-scaled FILE:SCALE,...
        --control-vector-layer-range START END
    """),
    ("refused", "Docker Hub is no source of models here; hf:OWNER/REPO and ollama:NAME are",
     "-dr, --docker-repo REPO"),
    ("refused", "adaptive-p is not among the samplers; --min-p, --typical and --xtc-probability are",
     "--adaptive-target N\n--adaptive-decay N"),
    ("refused", "self-extension is not supported; --rope-scaling yarn stretches a context",
     "-gan, --grp-attn-n N\n-gaw, --grp-attn-w N"),
    ("refused", "ggrun reads text only", """
        -mm, --mmproj FILE
        -mmu, --mmproj-url URL
        -mmdev, --mmproj-device NAME
        --image, --audio, --video FILE
        --image-min-tokens N
        --image-max-tokens N
        --mtmd-batch-max-tokens N
        --video-fps N
        --video-timestamp-interval N
        --video-ffmpeg-dir FOLDER
        --vision-gemma-4b-default
        --vision-gemma-12b-default
    """),
    ("refused", "models are named with -m: `ggrun list --catalog` shows some, hf:OWNER/REPO takes any", """
        --gpt-oss-20b-default
        --gpt-oss-120b-default
        --embd-gemma-default
        --fim-qwen-1.5b-default
        --fim-qwen-3b-default
        --fim-qwen-7b-default
        --fim-qwen-7b-spec
        --fim-qwen-14b-spec
        --fim-qwen-30b-default
    """),
    ("refused", "llama.cpp has removed it; --no-lookup turns guessing off",
     "--spec-ngram-size-n N\n--spec-ngram-size-m N\n--spec-ngram-min-hits N"),
    ("refused", "an option of llama-server: `ggrun serve --help` shows those of ggrun's", """
        --server-base URL
        --host HOST
        --port PORT
        --reuse-port
        --path FOLDER
        --api-prefix PREFIX
        --api-key KEY
        --api-key-file FILE
        --ssl-key-file FILE
        --ssl-cert-file FILE
        --cors-origins ORIGINS
        --cors-methods METHODS
        --cors-headers HEADERS
        --cors-credentials
        --no-cors-credentials
        -to, --timeout N
        --sse-ping-interval N
        --threads-http N
        -a, --alias NAME
        --tags TEXT
        --ui, --webui
        --no-ui, --no-webui
        --ui-config, --webui-config JSON
        --ui-config-file, --webui-config-file FILE
        --ui-mcp-proxy, --webui-mcp-proxy
        --no-ui-mcp-proxy, --no-webui-mcp-proxy
        --tools NAMES
        --tools-runtime OPTION
        --mcp-servers-config FILE
        --mcp-servers-json JSON
        -ag, --agent
        -no-ag, --no-agent
        --cache-prompt
        --no-cache-prompt
        --cache-reuse N
        --cache-idle-slots
        --no-cache-idle-slots
        --kv-unified-per-slot N
        --metrics
        --props
        --slots
        --no-slots
        --slot-save-path FOLDER
        -sps, --slot-prompt-similarity N
        --media-path FOLDER
        --models-dir FOLDER
        --models-preset FILE
        --models-max N
        --models-autoload
        --no-models-autoload
        --prefill-assistant
        --no-prefill-assistant
        --lora-init-without-apply
        --sleep-idle-seconds N
        -lcs, --lookup-cache-static FILE
        -lcd, --lookup-cache-dynamic FILE
    """),
)  # fmt: skip


def rows(*, serves: bool = False) -> Iterator[Row]:
    """The table's rows; serves: those of llama-server alone."""
    for fate, why, options in llama_server.TABLE if serves else _TABLE:
        for line in filter(None, map(str.strip, options.splitlines())):
            *first, last = line.split(", ")
            name, _, value = last.partition(" ")
            yield Row((*first, name), value, fate, why)


@cache
def _by_name(serves: bool) -> dict[str, Row]:
    return {name: row for row in rows(serves=serves) for name in row.names}


def find(name: str, *, serves: bool = False) -> Row | None:
    """What is known of an option of llama.cpp; serves: in `ggrun serve`."""
    return (_by_name(True).get(name) if serves else None) or _by_name(False).get(name)


def page() -> str:
    """docs/llama-cpp-options.md."""
    titles: dict[Fate, str] = {
        "done": "Done",
        "no effect": "Taken, since they change nothing here (`-v` says why)",
        "refused": "Refused, with the reason",
    }
    lines = [
        "# llama.cpp's options",
        "",
        "What becomes of the options of llama-cli, llama-completion and llama-server in `ggrun run` and `ggrun chat`,",
        "and at the end, where it is otherwise, in `ggrun serve`, whose own options `ggrun serve --help` shows.",
        "Generated from the table that the command line goes by: `python -m gguf_runtime.cli.llama_cpp`.",
    ]
    parts = [(title, [row for row in rows() if row.fate == fate]) for fate, title in titles.items()]
    parts += [
        (f"{title}: `ggrun serve`", found)
        for fate, title in titles.items()
        if (found := [row for row in rows(serves=True) if row.fate == fate])
    ]
    for title, found in parts:
        lines += ["", f"## {title}", "", "| Option | |", "|---|---|"]
        for row in found:
            spelled = f"{', '.join(row.names)} {row.value}".rstrip().replace("|", "\\|")
            lines.append(f"| `{spelled}` | {row.why.replace('|', chr(92) + '|')} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
