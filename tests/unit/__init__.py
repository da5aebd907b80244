"""Tests of single Python modules, without other processes where that can be."""
