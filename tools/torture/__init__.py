"""A campaign of kills, power cuts, full disks, second processes and invalid input against tiny runs: `make torture`.

`python -m tools.torture --output DIR --seed 0` runs every campaign and writes DIR/table.md and DIR/table.json. Finished
cases are lines of DIR/cases.jsonl and are not repeated. `--short` runs a sample of the cases. Linux only: cases run in
processes forked from one that has imported everything, and paths of descriptors are read from /proc.
"""
