"""Before a run: where along the denoising chain the reward is decided; a table, plots, and suggested settings."""

from b2diffurl.analysis.probe.measure import Probe, ProbeSettings, Row, measure
from b2diffurl.analysis.probe.show import shown_numbers, write_probe
from b2diffurl.analysis.probe.suggest import Suggestion, suggest

__all__ = ["Probe", "ProbeSettings", "Row", "Suggestion", "measure", "shown_numbers", "suggest", "write_probe"]
