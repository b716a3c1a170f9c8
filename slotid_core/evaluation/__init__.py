"""Measuring what the demo world's people keep of themselves in sampled videos."""
