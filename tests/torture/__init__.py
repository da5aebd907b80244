"""Clusters of real processes under faults, with histories that are judged. Long runs: `make torture`."""
