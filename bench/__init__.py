"""Benchmarks: our programs beside their peers, in the same run on the same machine. See README.md."""
