"""200 prompts together and one after another, without loading: python tests/benchmarks/prompts.py MODEL [TOKENS]."""

import json
import sys
from time import perf_counter

from gguf_runtime import LLM
from gguf_runtime.cli.batch import Answers, Task

THINGS = (
    "cat river castle violin volcano bicycle library penguin desert computer garden ocean train mountain candle robot"
)
ASKS = ["Write one sentence about a {}.", "What is a {}?", "Describe a {} to a child.", "Give a fact about a {}."]
PROMPTS = [ask.format(thing) for ask in ASKS * 4 for thing in THINGS.split()][:200]


def main(model: str, n_tokens: int = 48) -> None:
    options = {"max_tokens": n_tokens, "temperature": 0}
    tasks = [Task(json.dumps(prompt).encode(), i, None) for i, prompt in enumerate(PROMPTS)]
    with LLM(model, n_ctx=4096) as llm:

        def alone(tasks: list[Task]) -> int:
            answers = [llm.stream(task.tokens(llm, raw=False), **options) for task in tasks]
            return sum(len("".join(answer) and answer.tokens) for answer in answers)

        def together(tasks: list[Task]) -> int:
            return sum(answer["n_tokens"] for answer in Answers(llm, tasks, False, options))

        speeds = []
        for make in alone, together:
            make(tasks[:4])
            start = perf_counter()
            speeds.append(make(tasks) / (perf_counter() - start))
        print(f"alone {speeds[0]:.1f} t/s, together {speeds[1]:.1f} t/s: {speeds[1] / speeds[0]:.2f} times")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
