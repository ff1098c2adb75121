#!/bin/sh
# Build the libraries with ggml's Vulkan backend in build/vulkan, and run tests/device/ on its first device: a GPU, or else lavapipe,
# Mesa's Vulkan driver that computes on the processor. Arguments are passed to pytest: scripts/dev/test_vulkan.sh -k states
#
# CAPKV_TEST_DEVICE names another device, such as Vulkan1. GGML_VK_VISIBLE_DEVICES names those of the machine that ggml may use.
set -eu

cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
build=$PWD/build/vulkan

has_header() {
    test -n "${VULKAN_SDK:-}" || echo "#include <$1>" | ${CXX:-c++} -E -x c++ - > /dev/null 2>&1
}

has_driver() {
    test -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" && return
    for file in /etc/vulkan/icd.d/*.json /usr/share/vulkan/icd.d/*.json /usr/local/share/vulkan/icd.d/*.json; do
        test ! -e "$file" || return 0
    done
    return 1
}

missing=
has_header vulkan/vulkan.hpp           || missing="$missing libvulkan-dev"
has_header spirv/unified1/spirv.hpp    || missing="$missing spirv-headers"
command -v glslc > /dev/null           || missing="$missing glslc"
has_driver                             || missing="$missing mesa-vulkan-drivers"
if [ -n "$missing" ]; then
    echo "capkv: not here, and needed for Vulkan:$missing" >&2
    echo "       Debian, Ubuntu: apt install$missing" >&2
    exit 1
fi

mkdir -p build
cmake -S . -B "$build" -G Ninja -DGGML_VULKAN=ON > "$build.log" 2>&1 || { cat "$build.log"; exit 1; }
cmake --build "$build" --target capkv

devices() {
    python -c 'from capkv_edge import _lib
ffi, lib = _lib.load()
print(*(ffi.string(lib.capkv_get_device(i)).decode() for i in range(lib.capkv_n_devices())))' 2> /dev/null
}

export CAPKV_LIB_PATH="$build/lib" CAPKV_TEST_DEVICE="${CAPKV_TEST_DEVICE:-Vulkan0}"
# of itself ggml uses GPUs alone
case ${GGML_VK_VISIBLE_DEVICES:-}-$(devices) in
    -*Vulkan0*) ;;
    -*)         export GGML_VK_VISIBLE_DEVICES=0; echo "capkv: no GPU that Vulkan can use: the tests run on lavapipe" ;;
esac
python -m pytest tests/device "$@"
