#!/usr/bin/env bash
# Make a virtual environment and install the studio in it, editable, with the tested versions of constraints.txt.
#
#   scripts/install.sh FOLDER [EXTRAS]      such as: scripts/install.sh .venv dev,mesh
#
# PYTHON=/path/to/python chooses the interpreter; else the first of python3, python3.13 ... python3.10 that fits.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:?name the folder of the virtual environment}
extras=${2:-}

fits() { "$1" -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.10 to 3.13 found (tried: ${PYTHON:-python3, python3.13 ... python3.10})." >&2
    echo "Install one, or say where it is: make demo PYTHON=/path/to/python3" >&2
    return 1
}

if ! [ -x "$venv/bin/python" ]; then
    python=$(find_python)
    echo "Making $venv with $("$python" --version) ($(command -v "$python"))"
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "This Python lacks the modules 'venv' and 'ensurepip'; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
    "$python" -m venv "$venv"
elif ! fits "$venv/bin/python"; then
    echo "$venv holds $("$venv/bin/python" --version 2>&1), not Python 3.10 to 3.13. Delete it, or: make VENV=other" >&2
    exit 1
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)

# The default wheel of torch on Linux brings gigabytes of CUDA libraries along: without an NVIDIA GPU take the one
# without, from wherever pip is configured to look or from PyTorch's own index, and the default one as a last resort.
install_torch() {
    local version
    version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)
    if "$venv/bin/python" -c "
import importlib.metadata as m, sys
sys.exit(m.version('torch').partition('+')[0] != '$version')" 2>/dev/null; then
        return
    fi
    echo "Installing torch $version"
    if [ "$(uname -s)" = Linux ] && ! { command -v nvidia-smi && nvidia-smi -L; } >/dev/null 2>&1; then
        "${pip[@]}" install "torch==$version+cpu" -c constraints.txt 2>/dev/null && return
        "${pip[@]}" --retries 1 --timeout 15 install "torch==$version+cpu" -c constraints.txt \
            --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null && return
        echo "No CPU-only build of torch is within reach; taking the default one, which is large."
    fi
    "${pip[@]}" install "torch==$version" -c constraints.txt
}

install_torch
echo "Installing neural-studio${extras:+ with $extras}"
"${pip[@]}" install -c constraints.txt -e ".${extras:+[$extras]}"
