"""Benchmarks: every contestant's result is checked, then timed. `make bench`, or see --help."""
