"""The one exception type that users are meant to read."""

from __future__ import annotations


class StudioError(Exception):
    """Bad input or an impossible request, told in one line: what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with code 2. Libraries may catch it.

    Args:
        message: What is wrong; names the file and the field where there is one.
        fix: What the user can do about it; printed after the message.
    """

    exit_code = 2

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        self.message = message
        self.fix = fix
        super().__init__(f"{message} {fix}" if fix else message)

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
