"""What a check found, and the report of all of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from studio.errors import StudioError

Status = Literal["pass", "fail", "n/a"]


class CheckFailed(Exception):
    """A plugin does not do what it must.

    Args:
        message: What is wrong, one line.
        fix: What its author can do about it.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class NotApplicable(Exception):
    """A check that says nothing about this plugin, or cannot be made here; the message says why."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    status: Status
    message: str = ""
    """Why it failed or does not apply; of a passed one what was measured, where that tells anything."""
    fix: str = ""
    """What the plugin's author can do about a failure."""
    device: str = ""
    """The device it was made on; empty where none takes part."""
    details: str = ""
    """Traceback of a failure that was an unexpected exception."""
    seconds: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.name} [{self.device}]" if self.device else self.name

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "name": self.name,
            "device": self.device or None,
            "status": self.status,
            "message": self.message,
            "fix": self.fix,
            "details": self.details,
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        text = f"{self.status:4}  {self.title}"
        text += f": {self.message}" if self.message else ""
        return f"{text} {self.fix}" if self.fix else text


@dataclass(frozen=True)
class CheckReport:
    """The outcomes of all checks of one plugin."""

    name: str
    data: str
    """What it was trained on, in words; empty where it came to no training."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == "fail")

    def __getitem__(self, name: str) -> Check:
        """The check of this name, the first where there are several; raises KeyError."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def require(self) -> CheckReport:
        """Nothing when all is well, for tests.

        Raises:
            AssertionError: Names each failure, its fix and its traceback.
        """
        if self.passed:
            return self
        lines = [f"Plugin '{self.name}' fails {len(self.failures)} of {len(self.checks)} checks:"]
        for check in self.failures:
            lines.append(f"  {check}")
            lines += [f"    {line}" for line in check.details.splitlines()]
        raise AssertionError("\n".join(lines))

    def to_dict(self) -> dict[str, Any]:
        """The stable JSON form of `studio plugins check --json`."""
        return {
            "plugin": self.name,
            "passed": self.passed,
            "data": self.data,
            "checks": [check.to_dict() for check in self.checks],
        }


@dataclass
class Runner:
    """Makes checks one after the other; one that failed stops none of the others but those that need it."""

    tell: Callable[[Check], None] = lambda check: None
    """Hears of each check when it is done."""
    checks: list[Check] = field(default_factory=list)

    def run(self, name: str, check: Callable[[], str | None], *, device: str = "", needs: tuple[str, ...] = ()) -> bool:
        """Make one check; whether it passed.

        Args:
            check: Returns nothing or a remark; raises `CheckFailed`, `NotApplicable`, or whatever the plugin raises.
            needs: Names of checks of this device, or of none, that must have passed.
        """
        started = time.perf_counter()
        missing = [n for n in needs if not self.passed(n, device)]
        status: Status = "pass"
        message, fix, details = "", "", ""
        if missing:
            status, message = "n/a", f"'{missing[0]}' has to pass first."
        else:
            try:
                message = check() or ""
            except NotApplicable as reason:
                status, message = "n/a", str(reason)
            except CheckFailed as failure:
                status, message, fix = "fail", failure.message, failure.fix
            except StudioError as error:
                status, message, fix = "fail", error.message, error.fix or ""
            except Exception as error:  # a plugin may raise anything
                first = (str(error).strip().splitlines() or [""])[0]
                status, message, details = "fail", f"{type(error).__name__}: {first}", traceback.format_exc()
        seconds = time.perf_counter() - started
        done = Check(name, status, message, fix, device, details, seconds)
        self.checks.append(done)
        self.tell(done)
        return status == "pass"

    def passed(self, name: str, device: str = "") -> bool:
        return any(c.name == name and c.device in ("", device) and c.status == "pass" for c in self.checks)
