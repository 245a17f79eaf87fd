"""Benchmarks: run systems on the same shots, score them with the same scorer, and report tables and pictures."""
