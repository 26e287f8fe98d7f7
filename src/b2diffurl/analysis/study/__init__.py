"""Studies: arms trained over seeds on equal numbers of scored images, and compared in tables, plots and claims.

A study is a TOML file (`spec.py`); those in studies/ can be given by name. The result of one run is a small JSON file
that is meant to be committed (`results.py`), and a run whose result exists is not repeated.
"""
