"""How soon a message is answered in a new chat, and after a long one: python tests/benchmarks/chat.py MODEL [TEXT]."""

import statistics
import sys
from pathlib import Path
from time import perf_counter

from gguf_runtime import LLM
from gguf_runtime.conversation import Conversation

QUESTION = "Which of these is the best, and why do you think so? Answer in {} sentences."
N_HISTORY, N_REPEATS = 4000, 9


def first_span(talk: Conversation, n: int) -> float:
    """Seconds until the answer to the n-th question begins; the conversation is then as it was."""
    start = perf_counter()
    reply = talk.ask(QUESTION.format(n), max_tokens=4, temperature=0)
    next(reply)
    seconds = perf_counter() - start
    reply.close()
    talk.undo()
    return seconds


def main(model: str, text: str) -> None:
    with LLM(model, n_ctx=8192) as llm:
        new, long = Conversation(llm), Conversation(llm)
        ids = llm.tokenize(Path(text).read_text("utf-8"))
        history = llm.tokenizer.decode((ids * (N_HISTORY // len(ids) + 1))[:N_HISTORY])
        for _ in long.ask(history, max_tokens=32, temperature=0):
            pass
        times: dict[str, list[float]] = {"new": [], "long": []}
        for n in range(N_REPEATS):  # in turns
            times["new"].append(first_span(new, n))
            times["long"].append(first_span(long, n))
        a, b = (statistics.median(times[name]) for name in ("new", "long"))
        print(f"a new chat: {1e3 * a:.1f} ms; after {long.n_tokens} tokens: {1e3 * b:.1f} ms, {b / a:.2f} times")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "README.md")
