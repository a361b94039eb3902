# Each target sets up what it needs; the second time that takes no time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The built wheel, unpacked where it shadows the source tree: `make check` tests what users get.
WHEEL := build/wheel
PEERS := .cache/peers
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
# A trained model and real images, which are not part of the project; what needs them is skipped without.
TEST_DATA ?= $(or $(DEPLOYKIT_TEST_DATA),../shared/data)

.PHONY: demo test test-numpy1 check docs bench test-gpu clean

BINDINGS := .cache/tensorrt-python$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
SERVE := .cache/serve
NUMPY1 := .cache/numpy1

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo.sh

# The fast tests; `make check` also runs those that need a browser, Ray, W&B or Triton.
test: $(INSTALLED) $(BINDINGS)/.installed
	$(BIN)/pytest -n auto -m "not integration"

# The runtime serves in Triton's environment, which has NumPy 1.
test-numpy1: $(INSTALLED) $(NUMPY1)/.installed
	PYTHONPATH=$(CURDIR)/$(NUMPY1) $(BIN)/pytest -n auto -m "not integration" tests/runtime

check: $(INSTALLED) $(BINDINGS)/.installed $(SERVE)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --config pyproject.toml
	rm -rf build/dist $(WHEEL)
	$(BIN)/python -m build --wheel --outdir build/dist . > /dev/null
	$(BIN)/pip install --quiet --no-deps --target $(WHEEL) build/dist/*.whl
	PYTHONPATH=$(CURDIR)/$(WHEEL) $(BIN)/pytest -n auto

docs: $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(INSTALLED) $(SERVE)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt onnxscript mlcommons-loadgen
	-$(MAKE) $(PEERS)/.installed
	$(BIN)/python benchmarks/main_job.py
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/harness.py
	$(BIN)/python benchmarks/gpu_runtime.py
	$(BIN)/python benchmarks/fit_cost_model.py
	$(BIN)/python benchmarks/serving.py $(SERVE)/bin/python
	$(BIN)/python benchmarks/cpu_int8.py $(if $(wildcard $(TEST_DATA)),"$(TEST_DATA)")
	test ! -d "$(TEST_DATA)" || $(BIN)/python benchmarks/int8_accuracy.py "$(TEST_DATA)"
	test ! -d "$(TEST_DATA)" || $(BIN)/python benchmarks/pretrained.py "$(TEST_DATA)"
	test ! -d "$(TEST_DATA)" || $(BIN)/python benchmarks/calibration.py "$(TEST_DATA)"

# TensorRT's libraries are not on PyPI, its Python bindings are: tests check that both majors have what is used.
$(BINDINGS)/.installed: $(INSTALLED)
	$(BIN)/pip install --quiet --no-deps --target $(BINDINGS)/10 tensorrt-cu13-bindings==10.16.1.11
	$(BIN)/pip install --quiet --no-deps --target $(BINDINGS)/11 tensorrt-cu13-bindings==11.4.0.106
	touch $@

$(NUMPY1)/.installed: $(INSTALLED)
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(NUMPY1) numpy==1.26.4
	touch $@

# What Triton's wheel runs models with is for NumPy 1, so it lives apart; all else it reads from $(VENV).
$(SERVE)/.installed: $(INSTALLED)
	$(BIN)/python -m venv --clear $(SERVE)
	$(SERVE)/bin/pip install --quiet --no-deps nvidia-pytriton==0.7.0 numpy==1.26.4
	$(BIN)/python $(PURELIB) > "$$($(SERVE)/bin/python $(PURELIB))/deploykit.pth"
	touch $@

# Other quantizers pin versions of their own, so they live apart; torch and numpy they read from $(VENV).
$(PEERS)/.installed: benchmarks/peers/requirements.txt $(INSTALLED)
	$(BIN)/python -m venv --clear $(PEERS)
	$(PEERS)/bin/pip install --quiet --no-deps --requirement $<
	$(BIN)/python $(PURELIB) > "$$($(PEERS)/bin/python $(PURELIB))/deploykit.pth"
	touch $@

test-gpu: $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt 'cuda-core[cu13]'
	$(BIN)/pytest -m gpu -rs

clean:
	rm -rf build dist *.egg-info .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,dev]'
	$(BIN)/pip install --quiet --no-deps tritonclient==2.73.0  # it asks for an older protobuf than it works with
	touch $@
