"""Benchmarks: every contestant's result is checked, then timed. `make bench`, or see --help."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch: its profiler reports each start
