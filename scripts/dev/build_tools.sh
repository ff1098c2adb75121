#!/bin/sh
# Build the patched llama-server, llama-cli, llama-bench, llama-perplexity and llama-completion in build/tools/bin, and with
# -DGGML_RPC=ON ggml-rpc-server. CMAKE_ARGS and arguments are passed to CMake: scripts/dev/build_tools.sh -DGGML_CUDA=ON
set -eu

cd "$(dirname "$0")/../.."
test ! -d .venv/bin || PATH=$PWD/.venv/bin:$PATH
command -v cmake > /dev/null || { echo "capkv: cmake not found: install it, or run make tools" >&2; exit 1; }

generator=
if [ ! -e build/tools/CMakeCache.txt ] && command -v ninja > /dev/null; then
    generator='-G Ninja'
fi
# shellcheck disable=SC2086 # no words or several
cmake -S . -B build/tools $generator -DCAPKV_TOOLS=ON ${CMAKE_ARGS-} "$@"
cmake --build build/tools --target capkv-tools --parallel

echo
ls build/tools/bin/llama-server* build/tools/bin/llama-cli* build/tools/bin/llama-bench* \
   build/tools/bin/llama-perplexity* build/tools/bin/llama-completion*
ls build/tools/bin/ggml-rpc-server* 2> /dev/null || true
