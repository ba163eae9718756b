"""One self-contained page: no network, no script, printable."""

from __future__ import annotations

from storm_clinic.reporting.content import ReportContent

__all__ = ["ReportContent"]
