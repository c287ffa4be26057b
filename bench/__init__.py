"""Benchmarks: what matters for speed, timed side by side with other people's code.

`python -m bench` runs them. They are no tests: nothing here passes or fails.
"""
