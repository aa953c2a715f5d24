"""What goes away warns for at least one minor version before, where it is called and where it is overridden."""

from __future__ import annotations

import warnings

import pytest

from studio.plugin import deprecation
from studio.plugin.deprecation import ApiDeprecationWarning, Deprecation, deprecated, warn_of_overridden


class Base:
    @deprecated(since="1.1", removed_in="1.2", instead="use `new`")
    def old(self) -> int:
        return 3

    def kept(self) -> int:
        return 4


class Overrides(Base):
    def old(self) -> int:
        return 5


class Leaves(Base):
    pass


def test_a_call_warns_and_works() -> None:
    with pytest.warns(
        ApiDeprecationWarning, match=r"Base\.old is deprecated since plugin API 1\.1 and goes in 1\.2; use"
    ):
        assert Leaves().old() == 3


def test_an_override_warns_when_the_class_is_loaded() -> None:
    with pytest.warns(ApiDeprecationWarning, match=r"Overrides: Base\.old is deprecated"):
        warn_of_overridden(Overrides, Base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_overridden(Leaves, Base)


@pytest.mark.parametrize("removed_in", ["1.1", "1.0", "0.9"])
def test_nothing_goes_without_a_version_of_warning(removed_in: str) -> None:
    with pytest.raises(ValueError, match=r"at least one minor version after 1\.1"):
        Deprecation(since="1.1", removed_in=removed_in, instead="nothing")


def test_what_is_overdue_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deprecation, "API_VERSION", "1.10")
    assert "goes in 1.11" in Deprecation("1.9", "1.11", "use `new`").message("old")
    with pytest.raises(ValueError, match=r"should have been removed in plugin API 1\.2"):
        Leaves().old()
