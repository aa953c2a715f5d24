"""The conformance kit: what a plugin must do to work like a built-in one, checked by running it on small data.

In a plugin's own tests::

    from studio.testing import check_plugin

    def test_conformance():
        check_plugin("my-plugin").require()

``studio plugins check NAME`` prints the same report. A configuration class may name a small model for the kit with
``CHECK = {"field": value, ...}``; see `studio.plugin.PluginConfig`.
"""

from studio.testing.check import check_plugin
from studio.testing.readers import check_reader
from studio.testing.report import Check, CheckReport

__all__ = ["Check", "CheckReport", "check_plugin", "check_reader"]
