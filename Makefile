# What people type. Each target sets itself up in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.adfast-installed
BUILD := build/python
SOURCES := $(shell find csrc kernels cmake CMakeLists.txt pyproject.toml constraints.txt -type f -not -name '*.pyc' 2>/dev/null)

.PHONY: demo test test-cpp sanitize sanitize-tsan sanitize-asan soak fuzz bench gpu-check lint format clean help
help:
	@echo "make demo      train a small GTrans on generated images, build a plan, look at its maps"
	@echo "make test      all tests"
	@echo "make sanitize  the engine under ThreadSanitizer, and under AddressSanitizer with what fuzzers start from"
	@echo "make soak      threads, cameras and faults for SOAK_MINUTES (30): nothing lost, no leak"
	@echo "make fuzz      plans and frames under libFuzzer, FUZZ_SECONDS=600 each; needs clang"
	@echo "make bench     the engine against its peers, answers checked first; takes long"
	@echo "make gpu-check on a machine with an NVIDIA card: build, test and time the CUDA backend"
	@echo "make lint      ruff and clang-format; make format applies them"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Where there is nvcc: for Ampere, which later cards compile anew when they first see it. Installed
# without make, the CUDA backend has machine code for all (cmake/cuda.cmake).
CUDA_ARCHITECTURES ?= 80

# torch first and alone: asked for by name and version it is the CPU build, and everything that
# depends on it is then content.
$(STAMP): $(VENV)/bin/python $(SOURCES)
	$(PIP) install --quiet torch==2.13.0
	$(PIP) install --quiet -c constraints.txt torchvision scikit-build-core pybind11 cmake ninja onednn-devel-cpu-gomp
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install --quiet -c constraints.txt --no-build-isolation \
	  -C build-dir=$(BUILD) -C cmake.define.ADFAST_CUDA_ARCHITECTURES="$(CUDA_ARCHITECTURES)" -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/adfast demo --out demo

# Of TensorRT the Python side and the small runtime, for the tests that what we call is there; the
# rest takes gigabytes. Where there is none for this Python the tests say so.
$(VENV)/tensorrt%: $(VENV)/bin/python
	$(PIP) install --quiet --no-deps --target $@ 'tensorrt-cu13-bindings==$*.*' \
	  'tensorrt-lean-cu13-libs==$*.*' || mkdir -p $@

# Each takes up to 2 GB.
TEST_PROCESSES ?= 2
# Without cards: what they compute is `make gpu-check`'s.
test: $(STAMP) test-cpp $(VENV)/tensorrt10 $(VENV)/tensorrt11
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
	@echo "All tests passed. Next: make demo, or README.md for your own images."

# Where the installation was built: what it compiled is there.
test-cpp: $(STAMP)
	$(BIN)/cmake -S . -B $(BUILD) -DADFAST_BUILD_TESTS=ON
	$(BIN)/cmake --build $(BUILD)
	$(BIN)/ctest --test-dir $(BUILD) --output-on-failure -j 2

# The engine from several threads under ThreadSanitizer, then, with broken plans and frames, under
# AddressSanitizer and UndefinedBehaviorSanitizer: with one set of kernels, as instrumented ones take
# long to compile. `python bench/sanitizers.py` runs all of the tests with all sets.
sanitize: sanitize-tsan sanitize-asan
sanitize-tsan: SANITIZED := engine_test schedule_test stream_test
sanitize-asan: SANITIZED := engine_test schedule_test stream_test fuzz_plan fuzz_frame
sanitize-tsan sanitize-asan: sanitize-%: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH"; cmake --preset $* -B build/$*-short -DADFAST_CPU_SETS=avx2 \
	    -DPython_EXECUTABLE=$(abspath $(BIN)/python) && \
	  cmake --build build/$*-short --target $(SANITIZED) && \
	  ctest --test-dir build/$*-short --output-on-failure \
	    -R '^(plans|engine.*|schedule|stream$(if $(findstring fuzz,$(SANITIZED)),|fuzz_.*))$$'

# Hostile plans and frames; what a fuzzer finds it leaves in build/fuzz/found. The seeds and all
# earlier findings are tests of their own (tests/fuzz), which need no clang.
FUZZ_SECONDS ?= 600
# The newest by its number first: the plain name may be an older one.
FUZZ_CXX ?= $(firstword $(foreach n,clang++-21 clang++-20 clang++-19 clang++-18 clang++-17 clang++-16 clang++,$(shell command -v $(n))))
FUZZ := build/fuzz
fuzz: $(STAMP)
	@test -n "$(FUZZ_CXX)" || { echo "make fuzz needs clang 16 or newer and its libFuzzer (Debian: clang-16 libclang-rt-16-dev libomp-16-dev)"; exit 1; }
	PATH="$(abspath $(BIN)):$$PATH"; cmake --preset fuzz -DCMAKE_CXX_COMPILER=$(FUZZ_CXX) \
	  -DCMAKE_C_COMPILER=$(subst clang++,clang,$(FUZZ_CXX)) -DPython_EXECUTABLE=$(abspath $(BIN)/python) && \
	  cmake --build --preset fuzz
	$(BIN)/python tests/fuzz/run.py $(FUZZ) --seconds $(FUZZ_SECONDS)

# On a machine with an NVIDIA card, in this checkout's environment or, where there is none, in that
# of $(PYTHON), which must have torch, triton and what adfast is built with. Touches neither.
GPU_PYTHON ?= $(if $(wildcard $(STAMP)),$(abspath $(BIN)/python),$(PYTHON))
GPU_BUILD := build/gpu
GPU_BENCH ?=
SANITIZER := $(shell command -v compute-sanitizer)
gpu-check:
	$(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --no-build-isolation --upgrade \
	  --target $(GPU_BUILD)/site -C build-dir=$(GPU_BUILD)/cmake -C cmake.define.ADFAST_CUDA=on \
	  -C cmake.define.ADFAST_CUDA_ARCHITECTURES=native -C cmake.define.ADFAST_BUILD_GPU_TESTS=ON .
	$(GPU_BUILD)/cmake/tests/gpu/cuda_kernels_card_test
	$(if $(SANITIZER),$(SANITIZER) --error-exitcode 1 $(GPU_BUILD)/cmake/tests/gpu/cuda_kernels_card_test gtrans,@echo "compute-sanitizer is not here: memory not checked")
	ADFAST_GPU_CHECK=1 PYTHONPATH=$(GPU_BUILD)/site $(GPU_PYTHON) -m pytest -q tests/cuda tests/gpu
	$(GPU_BUILD)/cmake/tests/gpu/gpu_kernels
	PYTHONPATH=$(GPU_BUILD)/site $(GPU_PYTHON) bench/gpu.py $(GPU_BENCH)

# Threads, cameras, faults: half an hour, or SOAK_MINUTES.
SOAK_MINUTES ?= 30
soak: $(STAMP)
	$(BIN)/python bench/soak.py --minutes $(SOAK_MINUTES)

bench: $(STAMP)
	$(BIN)/python bench/end_to_end.py
	$(BIN)/python bench/tables.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc kernels tests bench examples -name '*.cpp' -o -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc kernels tests bench examples -name '*.cpp' -o -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cu' | xargs $(BIN)/clang-format -i

clean:
	rm -rf build $(VENV) demo
