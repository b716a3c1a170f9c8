"""Measurements: `python -m benchmarks.bench_routing` and its neighbours. Results lie in `benchmarks/results/`."""
