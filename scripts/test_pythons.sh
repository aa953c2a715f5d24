#!/usr/bin/env bash
# Run a fast part of the tests with each supported Python that is not the one of the main environment.
#
#   scripts/test_pythons.sh FOLDER [VERSION...]      such as: scripts/test_pythons.sh .venv 3.10 3.12 3.13
#
# An interpreter is taken from the PATH, else uv is asked to bring one. Where neither has it, and nobody asked for that
# version by PYTHONS_NEEDED=1, that is said and the version is left out. The environments are FOLDER-3.10 and so on.
set -euo pipefail
cd "$(dirname "$0")/.."

base=${1:?name the folder of the main virtual environment}
shift
versions=("${@:-}")
[ -n "${versions[0]}" ] || versions=(3.10 3.12 3.13)
own=$("$base/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none)
# What differs between Pythons: syntax, typing, dataclasses, files, processes, the command line, Numba's compiler.
part=(tests/test_project.py tests/studio/plugin tests/studio/datasets tests/studio/readers tests/studio/cameras
    tests/studio/cli/test_cli_main.py tests/studio/kernels tests/studio/metrics tests/studio/training/test_checkpoint.py
    tests/plugins/studio_splat/test_splat_reference.py tests/plugins/studio_gpt/test_gpt_tokenizer.py)

find_python() { # VERSION
    local found
    if found=$(command -v "python$1") && "$found" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        echo "$found"
        return
    fi
    if ! command -v uv >/dev/null; then
        "$base/bin/python" -m pip --disable-pip-version-check --quiet install uv >/dev/null 2>&1 || return 1
        PATH="$(cd "$base/bin" && pwd):$PATH"
    fi
    uv python find --no-project "$1" 2>/dev/null && return
    timeout 300 uv python install --quiet "$1" >/dev/null 2>&1 && uv python find --no-project "$1" 2>/dev/null
}

tested=() missing=()
for version in "${versions[@]}"; do
    if [ "$version" = "$own" ]; then
        tested+=("$version (the main environment)")
        continue
    fi
    if ! [ -x "$base-$version/bin/python" ]; then
        if ! python=$(find_python "$version"); then
            missing+=("$version")
            continue
        fi
        PYTHON=$python scripts/install.sh "$base-$version" dev
    fi
    echo "== Python $version"
    "$base-$version/bin/python" -m pytest "${part[@]}" -p no:cacheprovider
    tested+=("$version")
done
echo "Python versions tested: ${tested[*]:-none}"
if [ ${#missing[@]} -gt 0 ]; then
    echo "NOT tested, as no interpreter is on the PATH and uv cannot bring one: ${missing[*]}"
    [ -z "${PYTHONS_NEEDED:-}" ] || exit 1
fi
