"""Before a run: where along the denoising chain the reward is decided, and what each credit rule gets per query."""

from b2diffurl.analysis.probe.information import Information, InformationSettings, measure_information
from b2diffurl.analysis.probe.measure import Probe, ProbeSettings, Row, measure
from b2diffurl.analysis.probe.show import write_information, write_probe
from b2diffurl.analysis.probe.suggest import Suggestion, suggest

__all__ = [
    "Information", "InformationSettings", "Probe", "ProbeSettings", "Row", "Suggestion", "measure",
    "measure_information", "suggest", "write_information", "write_probe",
]  # fmt: skip
