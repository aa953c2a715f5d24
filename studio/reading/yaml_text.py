"""YAML documents of plain data: mappings, lists, strings, numbers."""

from __future__ import annotations

import os
from collections.abc import Hashable
from typing import Any

import yaml

from studio.reading.files import decode_text, read_bytes, unreadable
from studio.reading.limits import DEEPEST, LARGEST_YAML

_LONGEST_NUMBER = 100


def read_yaml(path: str | os.PathLike[str], *, fix: str = "Correct the file.") -> Any:
    """The content of a YAML file in UTF-8. What looks like a date stays a string.

    Raises:
        StudioError: Missing, no regular file, longer than `LARGEST_YAML` bytes, not UTF-8, no YAML; aliases
            (``*name``), which let a few lines stand for gigabytes; a name that a mapping has twice; nesting deeper than
            `DEEPEST`; types beyond plain data.
    """
    text = decode_text(read_bytes(path, LARGEST_YAML, fix=fix), path, fix=fix)
    try:
        return yaml.load(text, _PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise unreadable(path, f"is not a readable document: {error.problem or 'no YAML'}{line}", fix=fix) from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise unreadable(path, f"cannot be read as YAML ({reason})", fix=fix) from error


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, dates, repeated names, and endless depth."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise self._refusal("an alias (*name), which is not read: write its value out")
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._refusal(f"is nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"the name {str(twice)[:80]!r} stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        # Numbers to the base of 60, which YAML 1.1 has, take time by the square of their length.
        if len(node.value) > _LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value):,} characters", node.start_mark
            )
        construct = self.construct_yaml_float if node.tag.endswith(":float") else self.construct_yaml_int
        found: int | float = construct(node)
        return found

    def _refusal(self, what: str) -> yaml.composer.ComposerError:
        return yaml.composer.ComposerError(None, None, what, self.peek_event().start_mark)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_number)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _PlainLoader.construct_number)
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# Plain data alone: no bytes, dates, sets or pairs, which nothing that reads a configuration expects.
_PlainLoader.yaml_constructors = {
    tag: construct
    for tag, construct in _PlainLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
}
