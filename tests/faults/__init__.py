"""Faults, tried on purpose: rotten and hostile files, a full disk, senseless input, kills.

    PYTHONPATH=tests python -m faults --cases 1000 --kills 3         make faults

Each module makes faults of one kind. `make test` tries a sample of each (tests/test_faults.py);
`make faults` tries them all, counts, and writes docs/reliability.md.
"""
