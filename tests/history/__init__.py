"""Histories of operations, and whether they are linearizable."""
