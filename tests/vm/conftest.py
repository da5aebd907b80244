"""A story ends at the first test that fails, as on lab hosts."""

from tests.fleet.story import story

__all__ = ["story"]
