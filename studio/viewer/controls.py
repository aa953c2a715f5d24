"""Setting controls of the page from here."""

from __future__ import annotations

from typing import Any


def put(control: Any, value: object) -> None:
    """Show a value in a control; viser declares the property read-only, and takes it."""
    control.value = value
