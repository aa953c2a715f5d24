"""The one exception type that users are meant to read."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, ends of lines and paragraphs, changes of direction, and halves of surrogate pairs."""


def one_line(text: str) -> str:
    """A text with what would break or turn its line, or steer a terminal, written as in Python (``\\n``)."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


class StudioError(Exception):
    """Bad input or an impossible request, told in one line: what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with code 2. Libraries may catch it.

    Args:
        message: What is wrong; names the file and the field where there is one.
        fix: What the user can do about it; printed after the message.

    Names and values from files may hold anything; they are shown as `one_line` does.
    """

    exit_code = 2

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        self.message = one_line(message)
        self.fix = None if fix is None else one_line(fix)
        super().__init__(f"{self.message} {self.fix}" if fix else self.message)

    def add_fix(self, more: str) -> None:
        """Say one thing more, for whoever handles the error on its way and knows it."""
        StudioError.__init__(self, self.message, fix=f"{self.fix} {more}" if self.fix else more)


class MissingDependencyError(StudioError):
    """An optional package is not installed; the message names the pip command that installs it."""

    def __init__(self, package: str, extra: str, *, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed.",
            fix=f"Install it with: pip install 'neural-studio[{extra}]'",
        )
