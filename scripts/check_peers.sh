#!/usr/bin/env bash
# Make a virtual environment with the programs that the studio's numerics are held against, and compare.
#
#   scripts/check_peers.sh FOLDER      such as: scripts/check_peers.sh .venv-peers
#
# The newest versions of them are taken, so that a change of theirs is seen; what was compared with is listed at the
# end. About 1.3 GB. npm brings two of them; without it their tests are left out, and that is said.
# PYTHON=/path/to/python chooses the interpreter. Ends with code 3 where they cannot be installed.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$(realpath -m "${1:?name the folder of the virtual environment}")
# The newest torchvision that can be imported beside a torch without CUDA (tests/bridge/torchvision_operators.py), for
# torch-fidelity, which asks nothing of it here. gsplat and nerfacc are wheels that build their CUDA parts only when
# these are called; their functions in plain torch need none of the compilers among their requirements.
bare=(torchvision==0.27.1 gsplat nerfacc)
peers=(opencv-python-headless pycolmap scikit-image torchmetrics torch-fidelity diffusers transformers)
node=(@playcanvas/splat-transform gltf-validator)

pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
if [ "${2:-}" = --install ]; then
    scripts/install.sh "$venv"
    echo "Installing the peers"
    torch=$("$venv/bin/python" -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))')
    "${pip[@]}" install --no-deps "${bare[@]}"
    "${pip[@]}" install --upgrade "$torch" "${peers[@]}" pytest pytest-timeout hypothesis
    if command -v npm >/dev/null; then
        # Their install scripts fetch what is not needed here.
        npm install --prefix "$venv/node" --ignore-scripts --silent "${node[@]}"
    fi
    touch "$venv/.installed"
    exit
fi
if ! [ -e "$venv/.installed" ] || [ constraints.txt -nt "$venv/.installed" ] || [ "$0" -nt "$venv/.installed" ]; then
    # A process of its own, which stops at its first failure.
    timeout 900 bash "$0" "$1" --install || { echo "The peers cannot be installed: nothing was compared" >&2; exit 3; }
fi

left_out=()
if ! [ -d "$venv/node/node_modules" ] || ! command -v node >/dev/null; then
    echo "npm is not installed: splat-transform and the glTF validator are left out"
    left_out=(--ignore=tests/peers/test_peer_splat_files.py)
fi
STUDIO_PEERS=1 NPM_PEERS="$venv/node" "$venv/bin/python" -m pytest tests/peers -o addopts="-q --strict-markers --import-mode=importlib" \
    -p no:cacheprovider --disable-warnings "${left_out[@]}"
echo "compared with: $("$venv/bin/python" -m pip --disable-pip-version-check list --format freeze | grep -iE '^(torch|gsplat|nerfacc|opencv|pycolmap|scikit-image|torchmetrics|torch-fidelity|diffusers|transformers)' | paste -sd' ')"
[ ${#left_out[@]} -gt 0 ] || npm ls --prefix "$venv/node" --depth 0 | tail -n +2 || true
