"""What matters for speed, timed side by side with other people's code: `python -m paper_lib.bench`. Benchmarks, not tests: nothing here passes or fails."""
