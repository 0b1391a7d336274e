"""What guessing from the text so far brings: python tests/benchmarks/lookup.py MODEL TEXT [TOKENS] [ROUNDS].

For tasks about the first 1,500 tokens of the text, and for others, with and without, in turns; greedily and sampled.
"""

import statistics
import sys
from pathlib import Path

from gguf_runtime import LLM

TASKS = {
    "summarise": "Summarise the following text:\n\n{text}",
    "correct": "Fix the spelling mistakes in the following text and give back the whole corrected text:\n\n{text}",
    "story": "Tell me a story about a fox and a mountain.",
    "code": "Write a Python class for a stack with push, pop and peek, with docstrings.",
}


def main(model: str, text: str, n_tokens: int = 256, n_rounds: int = 3) -> None:
    with LLM(model, n_ctx=4096) as llm:
        start = llm.tokenizer.decode(llm.tokenize(Path(text).read_text("utf-8"))[:1500])
        for temperature in (0, 0.8):
            for name, task in TASKS.items():
                prompt = [{"role": "user", "content": task.format(text=start)}]
                options = {"max_tokens": n_tokens, "temperature": temperature, "seed": 1, "ignore_eos": True}
                speeds: dict[bool, list[float]] = {False: [], True: []}
                for _ in range(n_rounds):
                    for lookup in (False, True):
                        answer = llm.stream(prompt, lookup=lookup, **options)
                        "".join(answer)
                        speeds[lookup].append(answer.n_decoded / answer.step_seconds)
                plain, guessed = (statistics.median(speeds[lookup]) for lookup in (False, True))
                ratio = statistics.median(b / a for a, b in zip(*speeds.values(), strict=True))
                print(
                    f"{name:10} temperature {temperature:3}  {plain:6.1f} → {guessed:6.1f} t/s, {ratio:.2f} times, "
                    f"{answer.n_accepted} of {answer.n_guessed} guesses right",
                    flush=True,
                )


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:5]))
