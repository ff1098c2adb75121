#!/bin/sh
# Check a budget on a machine with an NVIDIA GPU, nvcc and Python with NumPy; no network is needed there. See docs/gpu.md.
#
#   scripts/checks/gpu/check.sh pack [FILE]    in the checkout: write the archive, build/gpu-check.tar.gz
#   scripts/checks/gpu/check.sh STEP           in the unpacked archive: build, scorers, models, chat, speed, sanitize, table
#   scripts/checks/gpu/check.sh all            all steps, one after another
#
# A step may take CAPKV_GPU_CHECK_LIMIT seconds (default 540). A step that needs longer exits with 75: run it again, and it
# continues. Rows, logs and the table are written to CAPKV_GPU_CHECK_OUT (default gpu-results).
# CAPKV_GPU_CHECK_BACKEND=cpu runs the same steps on the CPU with small sizes, to try them out without a GPU.
set -eu

cd "$(dirname "$0")/../../.."
python=${PYTHON:-python3}
limit=${CAPKV_GPU_CHECK_LIMIT:-540}
steps="build scorers models chat speed sanitize table"

if [ "${1:-}" = pack ]; then
    shift
    exec "$python" scripts/checks/gpu/gpu_pack.py "$@"
fi

run_step() {
    status=0
    # in the background, so that a signal that ends this script ends the step too
    timeout -k 10 "$limit" "$python" scripts/checks/gpu/gpu_steps.py "$1" &
    trap 'kill $!; exit 130' INT TERM
    wait $! || status=$?
    trap - INT TERM
    case $status in
        124 | 137) echo "gpu_check: step $1 is not done after $limit s: run it again, and it continues"; return 75 ;;
        *)         return $status ;;
    esac
}

if [ "${1:-}" = all ]; then
    failed=0
    for step in $steps; do
        for try in 1 2 3 4 5 6 7 8 9; do
            status=0
            run_step "$step" || status=$?
            test $status = 75 || break
        done
        if [ $status != 0 ]; then
            echo "gpu_check: step $step ended with $status on try $try"
            failed=1
            test "$step" != build || exit 1
        fi
    done
    exit $failed
fi

case " $steps " in
    *" ${1:-none} "*) run_step "$1" ;;
    *)                sed -n '2,/^set/s/^# \{0,1\}//p' scripts/checks/gpu/check.sh >&2; exit 2 ;;
esac
