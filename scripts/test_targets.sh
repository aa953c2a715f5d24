#!/usr/bin/env bash
# Run the tests of the compiled kernels for other processors than this one.
#
#   scripts/test_targets.sh VENV [TARGET ...]
#
# Targets: x86-64-v2 (SSE4.2), x86-64-v3 (AVX2), x86-64-v4 (AVX-512), aarch64 (NEON, emulated by qemu-user, a part of the
# tests on small scenes). Without any, all are run that this machine can run; those it cannot are named with the reason.
# PYTEST_ARGS goes to pytest. EMULATED_SECONDS (900) bounds the emulated tests: what is not reached by then is said, and
# is no failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${1:?name the virtual environment}
shift
known="x86-64-v2 x86-64-v3 x86-64-v4 aarch64"
for target in "$@"; do
    case " $known " in
        *" $target "*) ;;
        *) echo "Unknown target '$target'; there are: $known" >&2 && exit 2 ;;
    esac
done

# What holds each kernel against its reference, forward and backward.
kernels=(
    tests/studio/kernels tests/studio/marching tests/plugins/studio_splat/test_kernels_*.py
    tests/plugins/studio_splat/test_splat_parity.py tests/plugins/studio_nerf/test_ngp_engines.py
)
# Under emulation some thirty times slower: forward, backward, binning and loss on small scenes first.
splat=tests/plugins/studio_splat
emulated=(
    "$splat/test_kernels_raster.py::test_matches_float64_autograd[random-rgb]"
    $splat/test_kernels_raster.py::test_lists_hold_exactly_the_tiles_reached
    $splat/test_kernels_loss.py::test_matches_the_definition
    tests/studio/kernels/test_kernel_vec.py::test_exp2_stays_within_its_bound_over_the_whole_range
    $splat/test_kernels_projection.py::test_records_match_the_reference
    $splat/test_kernels_projection.py::test_gradients_match_autograd
)

# Prints why this machine cannot run code for a level of x86-64, or nothing.
lacks() {
    NUMBA_CPU_NAME='' "$venv/bin/python" - "$1" <<'PYTHON'
import platform, sys
from llvmlite import binding

if platform.machine().lower() not in ("x86_64", "amd64"):
    print(f"this is {platform.machine()}")
    raise SystemExit
needs = {"x86-64-v2": ["sse4.2", "popcnt"], "x86-64-v3": ["avx2", "fma", "bmi2", "f16c"],
         "x86-64-v4": ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]}
has = binding.get_host_cpu_features()
missing = [name for name in needs[sys.argv[1]] if not has.get(name)]
if missing:
    print(f"this processor has no {', '.join(missing)}")
PYTHON
}

failed=()
for target in ${*:-$known}; do
    began=$SECONDS
    printf '\n==> Kernels for %s\n' "$target"
    if [ "$target" = aarch64 ]; then
        code=0
        scripts/aarch64_python.sh "$venv-aarch64" "$venv" || code=$?
        if [ $code = 3 ]; then
            [ $# = 0 ] && continue
            exit 1
        fi
        code=0
        # shellcheck disable=SC2086  # PYTEST_ARGS is words
        NUMBA_NUM_THREADS=2 OMP_NUM_THREADS=1 XDG_CACHE_HOME="$venv-aarch64/cache" \
            timeout --signal=INT --kill-after=30 "${EMULATED_SECONDS:-900}" "$venv-aarch64/python" -m pytest --maxfail=1 \
            -p pytest_timeout -p _hypothesis_pytestplugin -p no:cacheprovider --noconftest --timeout=1200 \
            --strict-markers "${emulated[@]}" ${PYTEST_ARGS:-} || code=$?
        case $code in
            0) ;;
            124 | 137) echo "aarch64: not finished in ${EMULATED_SECONDS:-900} s; the tests reached passed" ;;
            *) failed+=("$target") ;;
        esac
    else
        reason=$(lacks "$target")
        if [ -n "$reason" ]; then
            echo "No tests for $target: $reason" >&2
            [ $# = 0 ] && continue
            exit 1
        fi
        # shellcheck disable=SC2086
        env -u NUMBA_CPU_FEATURES NUMBA_CPU_NAME="$target" "$venv/bin/python" -m pytest "${kernels[@]}" \
            ${PYTEST_ARGS:-} || failed+=("$target")
    fi
    echo "$target took $((SECONDS - began)) s"
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "Failed for: ${failed[*]}" >&2
    exit 1
fi
