#!/usr/bin/env bash
# Make a virtual environment with nerfstudio and the studio in it, and run the tests of the bridge between them there.
#
#   scripts/check_nerfstudio.sh FOLDER      such as: scripts/check_nerfstudio.sh .venv-nerfstudio
#
# An environment of its own, as nerfstudio pins packages that the studio wants newer (viser). About 3.5 GB, nearly all
# of it packages of nerfstudio. PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:?name the folder of the virtual environment}
nerfstudio=1.1.5
# The newest torchvision that lacks nothing but the operator torchvision::nms beside a torch without CUDA, where there
# is no CPU build of torchvision; see tests/bridge/torchvision_operators.py. It is made for the torch before this one,
# of whose differences nerfstudio meets none, so it is installed without its own requirements.
torchvision=0.27.1

if ! [ -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)

if ! [ -e "$venv/.installed" ] || [ pyproject.toml -nt "$venv/.installed" ] || [ "$0" -nt "$venv/.installed" ]; then
    echo "Installing torch $version"
    # As in install.sh: without CUDA if that can be had.
    "${pip[@]}" install "torch==$version+cpu" 2>/dev/null ||
        "${pip[@]}" --retries 1 --timeout 15 install "torch==$version+cpu" \
            --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null ||
        "${pip[@]}" install "torch==$version"
    echo "Installing nerfstudio $nerfstudio and neural-studio"
    "${pip[@]}" install "torch==$version" "nerfstudio==$nerfstudio" -e ".[nerfstudio]" pytest pytest-timeout hypothesis
    "${pip[@]}" install --no-deps "torchvision==$torchvision"
    touch "$venv/.installed"
fi

"$venv/bin/python" -m pytest tests/bridge -p no:cacheprovider --disable-warnings
# The command itself, as a user runs it.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for method in "studio-splat" "studio-ngp --pipeline.model.field.samples 8192"; do
    read -r method options <<<"$method"
    echo "== ns-train $method $options"
    # shellcheck disable=SC2086  # options are several words
    "$venv/bin/python" tests/bridge/run_nerfstudio.py ns-train "$method" $options --data scenes/tabletop \
        --output-dir "$work" --vis tensorboard --max-num-iterations 20 --steps-per-eval-image 0 --steps-per-eval-all-images 0 \
        --viewer.quit-on-train-completion True nerfstudio-data >"$work/$method.log" 2>&1 ||
        { tail -n 30 "$work/$method.log" >&2; exit 1; }
    ls "$work/tabletop/$method"/*/nerfstudio_models/*.ckpt
done
