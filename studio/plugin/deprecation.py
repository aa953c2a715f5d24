"""Parts of the plugin contract that are on their way out: they warn for at least one minor version before they go."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from studio.plugin.spec import API_VERSION

F = TypeVar("F", bound=Callable[..., Any])


class ApiDeprecationWarning(DeprecationWarning):
    """A plugin uses what a coming version of the contract no longer has."""


@dataclass(frozen=True)
class Deprecation:
    """A name of the contract that goes away.

    Args:
        since: The API version that began to warn, such as '1.1'.
        removed_in: The one that no longer has it; at least one minor version later.
        instead: What to use, in a few words.
    """

    since: str
    removed_in: str
    instead: str

    def __post_init__(self) -> None:
        if _parsed(self.removed_in) <= _parsed(self.since):
            raise ValueError(f"removed_in must lie at least one minor version after {self.since}: {self.removed_in}")

    def message(self, name: str) -> str:
        """One line for a plugin's author. Raises ValueError when the time is over."""
        if _parsed(API_VERSION) >= _parsed(self.removed_in):
            raise ValueError(f"{name} should have been removed in plugin API {self.removed_in}")
        return f"{name} is deprecated since plugin API {self.since} and goes in {self.removed_in}; {self.instead}."


def _parsed(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


def deprecated(since: str, removed_in: str, instead: str) -> Callable[[F], F]:
    """Mark a function or method of the contract.

    Calling it warns, and so does loading a plugin class that overrides it.
    """
    notice = Deprecation(since, removed_in, instead)

    def mark(function: F) -> F:
        @functools.wraps(function)
        def warn(*args: Any, **kwargs: Any) -> Any:
            warnings.warn(notice.message(function.__qualname__), ApiDeprecationWarning, stacklevel=2)
            return function(*args, **kwargs)

        warn.deprecation = notice  # type: ignore[attr-defined]
        return warn  # type: ignore[return-value]

    return mark


def warn_of_overridden(cls: type[Any], base: type[Any]) -> None:
    """Warn of each deprecated method of `base` that a plugin's class has a version of its own of."""
    for name in dir(base):
        notice = getattr(getattr(base, name, None), "deprecation", None)
        if isinstance(notice, Deprecation) and getattr(cls, name) is not getattr(base, name):
            text = notice.message(f"{base.__name__}.{name}")
            warnings.warn(f"{cls.__module__}.{cls.__qualname__}: {text}", ApiDeprecationWarning, stacklevel=2)
