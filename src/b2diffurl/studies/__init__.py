"""Studies: several runs, one table. Each is one command, `b2diffurl study NAME --output DIR`."""

from b2diffurl.studies.comparison import STUDIES, run_study

__all__ = ["STUDIES", "run_study"]
