"""The report of a chain: ``{output}/report.html``, one file that needs no network."""

from pipeline.chain.report.writing import REPORT_FILE, write_report

__all__ = ["REPORT_FILE", "write_report"]
