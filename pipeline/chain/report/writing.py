"""Write the report of a chain; a report that cannot be written never fails the chain."""

import logging

from pipeline import storage
from pipeline.chain.report.content import collect_content
from pipeline.chain.report.page import render_page
from pipeline.config import RunConfig

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"


def write_report(config: RunConfig) -> str:
    """Write ``{output}/report.html`` and return its URL, or why there is none."""
    url = storage.join(config.output, REPORT_FILE)
    try:
        storage.write_bytes(url, render_page(collect_content(config)).encode())
    except Exception as error:  # the results are there without it
        logger.warning("the report %s could not be written", url, exc_info=True)
        return f"none ({type(error).__name__}: {error})"
    return url
