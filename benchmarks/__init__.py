"""Measurements: `python -m benchmarks` makes all of them. Results lie in `benchmarks/results/`."""

import os

# The profiler, which counts memory, would say on every start and stop that it did. Read when torch is first imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
