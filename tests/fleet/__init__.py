"""Tests of a real deployment: lab hosts from nothing, as root, in a few minutes."""
