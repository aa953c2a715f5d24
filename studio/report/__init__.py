"""One page about a run: curves, pictures, figures, settings and environment, in a single file without scripts."""

from studio.report.contents import ReportOptions, collect_report
from studio.report.document import Document, Picture, Row, write_document

__all__ = ["Document", "Picture", "ReportOptions", "Row", "collect_report", "write_document"]
