"""Real clients against a running node: the tools and libraries people already have."""
