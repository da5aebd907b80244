"""Proof that the node answers as Redis does: the same commands to both, replies compared to the byte."""
