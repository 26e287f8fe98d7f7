"""The report: one self-contained page about one run, made from the run folder alone.

It works at any time: after the last round, in the middle of a run, and after a run that was stopped. The page needs
no network and no script: pictures are data URIs, charts are inline SVG, and a content policy forbids the rest.
"""

from b2diffurl.reporting.metric_docs import note_of
from b2diffurl.reporting.report import write_report

__all__ = ["note_of", "write_report"]
