"""What matters for speed, timed side by side with other people's code: `python -m bench`. Benchmarks, not tests: nothing here passes or fails."""
