"""Measurements, one command each: `python -m benchmarks.network`, `.sampling`, `.training`, `.startup`,
`.scaling`, `.gpu`.

Each runs what it compares interleaved in one process, prints a table, and writes
`benchmarks/results/NAME.json` with the machine and the command. `python -m benchmarks.report` puts the tables
into docs/performance.md. `python -m benchmarks.published` measures nothing: it puts the paper's figures
beside our counts.
"""
