#!/usr/bin/env bash
# Install the example plugins, and a new plugin of each kind, as a stranger would, and run their tests.
#
#   scripts/check_examples.sh PYTHON      such as: scripts/check_examples.sh .venv/bin/python
#
# The fresh virtual environment sees the packages of PYTHON's own (torch is large), and nothing is downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."

base=$(realpath -s "${1:?name the Python of the environment that the studio is installed in}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$base" -m venv --without-pip "$work/venv"
python=$work/venv/bin/python
shared=$("$base" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
own=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# addsitedir also reads the .pth files there, such as that of an editable studio.
echo "import site; site.addsitedir('$shared')" >"$own/shared.pth"
# Of the commands only this environment's are wanted.
cat >"$work/venv/bin/studio" <<END
#!$python
import sys
from studio.__main__ import main
sys.exit(main())
END
chmod +x "$work/venv/bin/studio"
studio=$work/venv/bin/studio

# A test environment's other pytest plugins are not what a stranger has.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1

# What pip and setuptools say matters only when they fail.
install() {
    "$python" -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable "$1" \
        >"$work/pip.log" 2>&1 || { cat "$work/pip.log"; return 1; }
}

cp -r examples/realnvp examples/voxels "$work"
for name in realnvp voxels; do
    install "$work/$name"
    echo "== $name"
    (cd "$work/$name" && "$python" -m pytest --quiet -p no:cacheprovider)
    "$studio" plugins check "$name" --device cpu
done
# Names with and without '-', one that is also the name of a class and of a module of the studio; the commands are run in
# the folder above the project, inside, and elsewhere, beside files with the names of modules.
mkdir "$work/elsewhere"
for place in "$work" "$work/elsewhere"; do
    for module in json dataclasses traceback torch config model; do
        echo "raise SystemExit('$module of the working folder was run')" >"$place/$module.py"
    done
done
for name in mymodel my-model plugin; do
    echo "== $name, from above, inside and elsewhere"
    (cd "$work" && "$studio" plugins new "$name" >/dev/null)
    install "$work/$name"
    for place in "$work" "$work/$name" "$work/elsewhere"; do
        (cd "$place" && "$studio" plugins why "$name")
    done
    (cd "$work" && "$studio" train "$name" toy:moons --preset quick --steps 2 --no-previews --no-tensorboard \
        --device cpu && "$studio" sample "runs/moons/$name") >/dev/null
done
(cd "$work" && rm -f json.py dataclasses.py traceback.py torch.py config.py model.py)
# Python itself looks into the working folder, where the project of that name must not hide the package.
(cd "$work" && "$python" -c "import mymodel.model, my_model.model, plugin.model")
for kind in generator field reader; do
    (cd "$work" && "$studio" plugins new "fresh-$kind" --kind "$kind")
    install "$work/fresh-$kind"
    echo "== fresh-$kind"
    (cd "$work/fresh-$kind" && "$python" -m pytest --quiet -p no:cacheprovider)
done
"$studio" plugins
cd "$work"
"$studio" train fresh-generator toy:moons --preset quick --steps 100 --no-previews --no-tensorboard --device cpu
"$studio" sample runs
