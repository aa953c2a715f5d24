#!/usr/bin/env bash
# Make a Python for aarch64 (NEON) that runs on this machine, in FOLDER: FOLDER/python, emulated by qemu-user.
#
#   scripts/aarch64_python.sh FOLDER VENV
#
# The interpreter and its libraries are Debian's packages for arm64, unpacked into FOLDER and not installed; NumPy, Numba,
# torch and whatever else is compiled are PyPI's wheels for aarch64. What is pure Python comes from VENV. Numba compiles for the emulated
# processor as it would on a real one. Needs Debian's apt and dpkg, no root, and qemu-aarch64 (Debian: qemu-user); where
# one is missing it says so and ends with code 3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:?name the folder of the emulated Python}
venv=${2:?name the virtual environment that has the packages of pure Python}
# The newest whose wheel for aarch64 on PyPI can be imported without CUDA; it only computes what is right.
torch=torch==2.9.1

missing() {
    echo "No tests for aarch64: $*" >&2
    exit 3
}
for tool in apt-get dpkg-deb qemu-aarch64; do
    command -v $tool >/dev/null || missing "$tool is not there (Debian: apt-get install qemu-user)"
done

sources=$(cat scripts/aarch64_python.sh constraints.txt | sha256sum | cut -c1-16)
if [ "$(cat "$folder/made" 2>/dev/null)" = "$sources" ]; then
    exit 0
fi
rm -rf "$folder"
mkdir -p "$folder"/{root,site,apt/state/lists/partial,apt/cache/archives/partial}
folder=$(cd "$folder" && pwd)
touch "$folder/apt/status"

# An apt of its own, for arm64 with nothing installed: the system's stays as it is.
apt=(
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User= -o Dpkg::Use-Pty=0
    -o Dir::State="$folder/apt/state" -o Dir::State::status="$folder/apt/status" -o Dir::Cache="$folder/apt/cache"
    -o Dir::Etc::SourceParts="$folder/apt/sources" -o Dir::Etc::SourceList="$folder/apt/sources.list"
    -o Debug::NoLocking=true
)
# Debian's own lists only, whichever others this machine has.
suite=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || true
[ -n "$suite" ] || missing "this is not Debian, whose packages the emulated Python is made of"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f $keyring ] || missing "$keyring is not there (Debian: apt-get install debian-archive-keyring)"
echo "deb [signed-by=$keyring] http://deb.debian.org/debian $suite main" >"$folder/apt/sources.list"

"${apt[@]}" update || missing "Debian's lists of packages for arm64 cannot be fetched"
"${apt[@]}" install -y --download-only --no-install-recommends python3 libgomp1 libstdc++6 >/dev/null \
    || missing "Debian's Python for arm64 cannot be fetched"
for package in "$folder"/apt/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$folder/root"
done
interpreter=$(cd "$folder/root/usr/bin" && ls python3.[0-9]* | head -n 1)
version=${interpreter#python}

# Some pins depend on the version of Python.
pins=$("$venv/bin/python" - "$version" <<'PYTHON'
import sys
from packaging.requirements import Requirement

for line in open("constraints.txt", encoding="utf-8"):
    pin = Requirement(line.strip()) if line[:1].isalpha() else None
    if pin and pin.name in ("numba", "llvmlite", "numpy", "pillow", "safetensors", "hypothesis"):
        if pin.marker is None or pin.marker.evaluate({"python_version": sys.argv[1]}):
            print(f"{pin.name}{pin.specifier}")
PYTHON
)
# shellcheck disable=SC2086  # the pins are words
"$venv/bin/python" -m pip --disable-pip-version-check --quiet install --target "$folder/site" --no-deps \
    --only-binary=:all: --implementation cp --python-version "$version" --abi "cp${version/./}" --abi abi3 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 $pins $torch || missing "PyPI's wheels for aarch64 cannot be fetched"
rm -rf "$folder/apt"

pure=$("$venv/bin/python" -c 'import pytest, pathlib; print(pathlib.Path(pytest.__file__).parents[1])')
cat >"$folder/python" <<SCRIPT
#!/bin/sh
# Plugins of pytest that the virtual environment happens to have may need what does not exist here.
export PYTHONPATH="$folder/site:$PWD:$PWD/plugins:$pure" PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
exec qemu-aarch64 -L "$folder/root" "$folder/root/usr/bin/$interpreter" "\$@"
SCRIPT
chmod +x "$folder/python"
"$folder/python" -c 'import platform; assert platform.machine() == "aarch64"'
echo "$sources" >"$folder/made"
