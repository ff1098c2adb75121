#!/bin/sh
# Build libllama and the tests with AddressSanitizer and UndefinedBehaviorSanitizer in build/sanitize and run them. GCC, Linux.
#
#   scripts/dev/sanitize.sh              the native tests, and the Python tests that call most of the native code
#   scripts/dev/sanitize.sh server       load on llama-server alone: connections that are cut, slots that are saved meanwhile
#   scripts/dev/sanitize.sh 2000 [SEED]  the test of damaged states alone: 2000 of each kind of damage, and a cut at every 64 bytes
#
# The first finding ends the run. No finding is suppressed.
set -eu

cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
build=$PWD/build/sanitize
mkdir -p build
on="-fsanitize=address,undefined"
optimize="-O1 -g1 -DNDEBUG"

# without OpenMP: its threads spin while they wait, ggml's own sleep
cmake -S . -B "$build" -G Ninja -DCAPKV_TESTS=ON -DCAPKV_TOOLS=ON -DGGML_OPENMP=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DCMAKE_C_FLAGS="$on -fno-omit-frame-pointer" -DCMAKE_CXX_FLAGS="$on -fno-omit-frame-pointer" \
    -DCMAKE_C_FLAGS_RELWITHDEBINFO="$optimize" -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="$optimize" \
    -DCMAKE_SHARED_LINKER_FLAGS="$on" -DCMAKE_EXE_LINKER_FLAGS="$on" > "$build.log" 2>&1 || { cat "$build.log"; exit 1; }
cmake --build "$build" --target capkv capkv-tests

export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1"
export ASAN_OPTIONS="allocator_may_return_null=1"

if [ "${1:-}" = server ]; then
    cmake --build "$build" --target llama-server
    # a server with a finding does not end with 0, which fails its test
    CAPKV_SERVER="$build/bin/llama-server" CAPKV_TEST_PATIENCE=10 exec python capkv_edge/crashes.py python -m pytest -q tests/server/test_load.py
fi
if [ $# -gt 0 ]; then
    exec python capkv_edge/crashes.py "$build/bin/test-capkv-state-fuzz" "$1" "${2:-1}" 64
fi

ctest --test-dir "$build" -L capkv --output-on-failure

# Python is not built with the sanitizer: preload it and the C++ library; do not report leaks, since Python has its own
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
python capkv_edge/crashes.py env LD_PRELOAD="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0" PYTHONMALLOC=malloc OMP_NUM_THREADS=1 CAPKV_LIB_PATH="$build/lib" \
    python -m pytest -q tests/native/test_native.py tests/llama/test_state.py tests/native/test_state_api.py tests/native/test_faults.py \
    -k "not no_memory_suffices and not 8b_shape"  # the first limits the address space, which the sanitizer needs; the second takes long
