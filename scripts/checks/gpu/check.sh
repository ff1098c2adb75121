#!/bin/sh
# Checks a budget on an NVIDIA GPU: on a machine with nvcc and Python with numpy, without a network. docs/gpu.md says more.
#
#   scripts/checks/gpu/check.sh pack [FILE]    here: write the archive to take there, build/gpu-check.tar.gz
#   scripts/checks/gpu/check.sh STEP           there, in the unpacked archive: build, scorers, models, chat, speed, sanitize, table
#   scripts/checks/gpu/check.sh all            all of these steps
#
# A step ends within CAPKV_GPU_CHECK_LIMIT seconds (default 540). One that is not done by then exits with 75: run it again, it goes
# on where it was. Rows, logs and the table go to CAPKV_GPU_CHECK_OUT (default gpu-results).
# CAPKV_GPU_CHECK_BACKEND=cpu runs the same steps in small without a GPU, to try them out.
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
    # in the background, with a group of its own: what ends this script has to end the step too
    timeout -k 10 "$limit" "$python" scripts/checks/gpu/gpu_steps.py "$1" &
    trap 'kill $!; exit 130' INT TERM
    wait $! || status=$?
    trap - INT TERM
    case $status in
        124 | 137) echo "gpu_check: step $1 is not done after $limit s: run it again, it goes on where it was"; return 75 ;;
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
    *)                sed -n 's/^# \{0,1\}//p' scripts/checks/gpu/check.sh >&2; exit 2 ;;
esac
