"""Before a run: where along the denoising chain is the reward decided? A table, pictures, and where to begin."""

from b2diffurl.analysis.probe.measure import Probe, ProbeSettings, Row, measure
from b2diffurl.analysis.probe.show import table, write_probe
from b2diffurl.analysis.probe.suggest import Suggestion, suggest

__all__ = ["Probe", "ProbeSettings", "Row", "Suggestion", "measure", "suggest", "table", "write_probe"]
