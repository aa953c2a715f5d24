#!/usr/bin/env bash
# Write requirements.txt: every package of constraints.txt that the studio and its extras dev, mesh, sfm and docs need,
# for each supported Python and system, with the hashes of its files on PyPI. uv looks them up.
#
#   scripts/write_hashes.sh PYTHON      such as: scripts/write_hashes.sh .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:?name a Python to install uv with}
command -v uv >/dev/null || "$python" -m pip --disable-pip-version-check --quiet install uv
uv=$(command -v uv || echo "$(dirname "$python")/uv")
header='# The tested set with hashes; made by `make hashes`, do not edit. It covers everything but torch, which comes first:
#     pip install torch==TORCH
#     pip install --no-deps --require-hashes -r requirements.txt
#     pip install --no-deps -e .
# (or torch==TORCH from https://download.pytorch.org/whl/cpu, whose files have hashes of their own).'
version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)
UV_PYTHON_DOWNLOADS=never "$uv" pip compile pyproject.toml --extra dev --extra mesh --extra sfm --extra docs \
    --constraint constraints.txt --universal --python-version 3.10 --generate-hashes --no-header --no-annotate --quiet \
    --output-file requirements.new >/dev/null
# torch and what it brings for CUDA are left out: whoever wants the build without CUDA has it from another index.
{
    echo "${header//TORCH/$version}"
    awk '/^[a-z]/ { left_out = /^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==/ } !left_out' requirements.new
} >requirements.txt
rm requirements.new
