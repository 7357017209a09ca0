"""The suites of scripts/benchmark.py; each module's `cases` yields what to time."""
