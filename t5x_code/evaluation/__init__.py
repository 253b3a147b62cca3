"""Benchmarks: what a model is asked, how its answers are run and scored."""
