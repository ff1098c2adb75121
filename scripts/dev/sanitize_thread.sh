#!/bin/sh
# Run llama-server under ThreadSanitizer with two threads: the tests of slots, cut connections, saved slots and load (6 minutes on 2
# cores). After a report the server exits with 66, which fails the test; the reports are in build/tsan*/reports.
#
#   scripts/dev/sanitize_thread.sh             the patched server, with a budget
#   scripts/dev/sanitize_thread.sh upstream    the unpatched server, without suppressions: shows which reports are llama.cpp's own
set -eu

cd "$(dirname "$0")/../.."
test ! -d .venv/bin || PATH=$PWD/.venv/bin:$PATH
command -v cmake > /dev/null || { echo "capkv: cmake not found: install it, or run make build" >&2; exit 1; }

case "${1:-}" in
    '')       build=build/tsan          upstream=OFF ;;
    upstream) build=build/tsan-upstream upstream=ON ;;
    *)        echo "capkv: sanitize_thread.sh: '$1': allowed is nothing or upstream" >&2; exit 1 ;;
esac

generator=
if [ ! -e $build/CMakeCache.txt ] && command -v ninja > /dev/null; then
    generator='-G Ninja'
fi
# without OpenMP: the sanitizer does not see how its threads synchronise, and would report races that are none
# shellcheck disable=SC2086 # two words or none
cmake -S . -B $build $generator -DCAPKV_TOOLS=ON -DCAPKV_UPSTREAM=$upstream -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DGGML_OPENMP=OFF -DGGML_SANITIZE_THREAD=ON -DLLAMA_SANITIZE_THREAD=ON
cmake --build $build --target llama-server --parallel

reports=$PWD/$build/reports
rm -rf "$reports"
mkdir -p "$reports"
export CAPKV_SERVER="$PWD/$build/bin/llama-server" CAPKV_TEST_PATIENCE=10 CAPKV_TEST_THREADS=2
export TSAN_OPTIONS="exitcode=66 log_path=$reports/report"

if [ $upstream = ON ]; then
    CAPKV_TEST_WITHOUT_BUDGET=1 python capkv_edge/crashes.py python -m pytest -q tests/server -k "erased or cut_connection" --tb=no || true
    grep -h SUMMARY "$reports"/* | sort | uniq -c
else
    TSAN_OPTIONS="$TSAN_OPTIONS suppressions=$PWD/scripts/dev/sanitize_thread.supp"
    python capkv_edge/crashes.py python -m pytest -q tests/server -k "at_once or restored or erased or cut_connection or copies or slot_is_lost or computed"
fi
