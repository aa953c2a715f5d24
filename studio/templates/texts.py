"""The files of a new plugin that are not Python; words in braces are filled in."""

from __future__ import annotations

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "0.1.0"
description = "A {kind} for neural-studio."
readme = "README.md"
requires-python = ">=3.10"
authors = [{{ name = "{author}" }}]
dependencies = ["neural-studio>={studio}"]
{license}

[project.optional-dependencies]
test = ["pytest>=8"]

# What makes it known: `studio` reads this entry point of every installed package.
[project.entry-points."{group}"]
{name} = "{package}:{attribute}"

# The package lies in src/, so that no folder of the project's name can be taken for it.
[tool.setuptools]
package-dir = {{ "" = "src" }}
packages = ["{package}"]

[tool.pytest.ini_options]
testpaths = ["tests"]

# The shapes of jaxtyping annotations are not names.
[tool.ruff.lint]
ignore = ["F722", "F821"]
"""

GITIGNORE = """\
__pycache__/
*.egg-info/
build/
dist/
runs/
"""

_GENERATOR = """\
A generator for neural-studio: flow matching with a small residual network. It
learns points (`toy:moons`) and small pictures (a folder of them, idx files such as MNIST, `.npz`), of a class where the
data has any.

```
pip install -e .
studio train {name} toy:moons --preset quick
studio sample runs/moons/{name}
studio eval runs/moons/{name}
```
"""

_FIELD = """\
A field for neural-studio: a small radiance field that learns a scene from posed photos and renders novel views.

```
pip install -e .
studio train {name} PHOTOS --preset quick
studio render runs --path orbit --output orbit.mp4
studio eval runs
```
"""

_READER = """\
A format of posed photos for neural-studio: a folder with photos and a table
`poses.csv`, described in `src/{package}/__init__.py`. The studio finds the format by itself.

```
pip install -e .
studio data info PHOTOS
studio train splat PHOTOS
```
"""

_CHECKS = """
## Where to go on

| file | what it is |
| --- | --- |
| `src/{package}/__init__.py` | the declaration: name, capabilities, devices, presets |
| `src/{package}/config.py` | options; each is a flag of `studio train {name}`, its text the flag's help |
| `src/{package}/model.py` | the model: its losses, its optimiser, and what it can do when it is trained |
| `tests/` | the conformance kit, as a test |

```
studio plugins check {name}
pip install -e ".[test]" && pytest
```
"""

_READER_CHECKS = """
## Where to go on

Everything is in `src/{package}/__init__.py`. The test in `tests/` writes a small folder of the format and reads it.

```
studio plugins check {name} --data PHOTOS
pip install -e ".[test]" && pytest
```
"""

README = {
    "generator": "# {name}\n\n" + _GENERATOR + _CHECKS,
    "field": "# {name}\n\n" + _FIELD + _CHECKS,
    "reader": "# {name}\n\n" + _READER + _READER_CHECKS,
}

LICENSES = {
    "MIT": """\
MIT License

Copyright (c) {year} {author}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
""",
    "BSD-3-Clause": """\
BSD 3-Clause License

Copyright (c) {year}, {author}

Redistribution and use in source and binary forms, with or without modification, are permitted
provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions
   and the following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions
   and the following disclaimer in the documentation and/or other materials provided with the
   distribution.

3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse
   or promote products derived from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR
IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND
FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR
CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER
IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF
THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
""",
    "Apache-2.0": """\
Copyright {year} {author}

Licensed under the Apache License, Version 2.0 (the "License"); you may not use this software except
in compliance with the License. You may obtain a copy of the License at

    https://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software distributed under the License is
distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or
implied. See the License for the specific language governing permissions and limitations under the
License.
""",
}
"""SPDX identifier -> text of the file LICENSE, with the year and the author to fill in."""
