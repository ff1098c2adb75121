#!/bin/sh
# Cross-compile libllama for 64-bit ARM and run programs of tests/native under an emulator.
#
#   scripts/dev/test_arm.sh [-R PATTERN]      PATTERN: which programs, as ctest takes it; without it those that take at most a minute
#
# It needs a cross-compiler and qemu's user mode; Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user-static
set -eu

cd "$(dirname "$0")/../.."
bin=$PWD/.venv/bin
build=build/arm
cross=aarch64-linux-gnu

for tool in $cross-g++ qemu-aarch64-static; do
    command -v $tool > /dev/null || {
        echo "capkv: no $tool; Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user-static" >&2
        exit 1
    }
done

"$bin"/cmake -S . -B $build -G Ninja -DCMAKE_MAKE_PROGRAM="$bin"/ninja \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_C_COMPILER=$cross-gcc -DCMAKE_CXX_COMPILER=$cross-g++ \
    -DCMAKE_CROSSCOMPILING_EMULATOR="qemu-aarch64-static;-L;/usr/$cross" \
    -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DCAPKV_TESTS=ON > $build.log || { cat $build.log >&2; exit 1; }
"$bin"/cmake --build $build --target capkv-tests
[ $# -gt 0 ] || set -- -R 'kernels|score|select|positions|evict'
"$bin"/ctest --test-dir $build -L capkv --output-on-failure "$@"
