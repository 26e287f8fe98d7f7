"""The report of a run, and the comparison of several: self-contained HTML pages, made from the run directories.

It can be written at any time: after the last round, during a run, and after a run was stopped. The page needs no
network and no script: images are data URIs, charts are inline SVG, and its content security policy blocks the rest.
"""

from b2diffurl.reporting.metric_docs import note_of
from b2diffurl.reporting.report import write_comparison, write_report

__all__ = ["note_of", "write_comparison", "write_report"]
