# Sets the project up in .venv, out of the locked dependencies, and runs it. `make` lists the targets.
#
# uv is used where it is on the PATH, otherwise venv and pip; nothing outside of .venv is installed or changed.
# requirements.lock has one exact version and its hashes for every package, for run time, tests and development
# together: the tools add a hundredth to PyTorch's size, and one lock means one state of .venv to rely on. It is
# installed with its hashes checked, and the project itself without dependencies on top.

VENV = .venv
PYTHON = python3.11 python3.12 python3.13 python3 python
# One process a core; the tests of a file stay together, and share what they set up.
SIDE_BY_SIDE = -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
ARGS =

# What .venv imports is compiled once and kept there: without it, importing takes every process several seconds more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help tune test lint check bench docs lock release clean

help:
	@echo 'make tune    install, and run the main job: make tune ARGS="--dataset mnist --num-trials 4"'
	@echo 'make test    install, and run the tests:    make test ARGS="tests/core -x"'
	@echo 'make lint    ruff, mypy and the layers of imports'
	@echo 'make check   lint and test'
	@echo 'make bench   install, and run the benchmarks: make bench ARGS="adversarial --repeats 20"'
	@echo 'make docs    build the documentation as a site, build/site/index.html; warnings are errors'
	@echo 'make release build and check what is published: dist/*.whl and dist/*.tar.gz'
	@echo 'make lock    write requirements.lock again, after a change of pyproject.toml (needs uv);'
	@echo '             make lock ARGS=--upgrade takes the newest versions'
	@echo 'make clean   remove .venv, builds and caches; results in dim_storage stay'
	@echo
	@echo 'PYTHON=/path/to/python3.11 chooses the Python that .venv is made with.'

tune: $(VENV)/.installed
	@$(VENV)/bin/python -m dim_ray.tune $(ARGS)

test: $(VENV)/.installed
	@$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

check: lint test

bench: $(VENV)/.installed
	@$(VENV)/bin/python -m benchmarks $(ARGS)

docs: $(VENV)/.installed
	$(VENV)/bin/python -m mkdocs build --strict

release: $(VENV)/.installed
	rm -rf build dist
	$(VENV)/bin/python -m build --no-isolation
	$(VENV)/bin/twine check --strict dist/*

lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --custom-compile-command 'make lock' --quiet --output-file requirements.lock $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
	find dim_ray tuning tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are written last, so that what was interrupted is done again.

$(VENV)/.made:
	@python=; found=; fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
	for candidate in $(PYTHON); do \
	  if "$$candidate" -c "$$fits" 2>/dev/null; then python=$$candidate; break; fi; \
	  version=$$("$$candidate" --version 2>&1) && found="$$found; $$candidate is $$version"; \
	done; \
	if command -v uv >/dev/null && [ -n "$${python}$(filter file,$(origin PYTHON))" ]; then \
	  uv venv --quiet --clear --python "$${python:-3.11}" $(VENV); \
	elif [ -n "$$python" ]; then \
	  "$$python" -m venv --clear $(VENV); \
	else \
	  echo "error: Python 3.11, 3.12 or 3.13 is needed, and isn't among: $(PYTHON)$$found." >&2; \
	  echo "Install one, or say where it is: make PYTHON=/path/to/python3.11 ..." >&2; \
	  exit 1; \
	fi
	@touch $@

$(VENV)/.installed: $(VENV)/.made requirements.lock pyproject.toml
	@echo 'Installing into $(VENV); PyTorch is large, the first time takes some minutes.'
	@if [ -t 1 ]; then quiet=; else quiet=--quiet; fi; \
	if command -v uv >/dev/null; then \
	  install="uv pip install --python $(VENV)/bin/python $$quiet"; \
	else \
	  $(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(VENV)/bin/python -m ensurepip >/dev/null || exit 1; \
	  install="$(VENV)/bin/python -m pip install --disable-pip-version-check $$quiet"; \
	fi; \
	$$install --require-hashes -r requirements.lock && $$install --no-deps --no-build-isolation -e .
	@touch $@
