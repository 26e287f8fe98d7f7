"""Studies: several runs, one table. Each is one command, `b2diffurl study NAME --output DIR`."""

from b2diffurl.studies.comparison import STUDIES, Study, run_study

__all__ = ["STUDIES", "Study", "run_study"]
