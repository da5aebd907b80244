"""The lab of each story, and its end at the first test that fails (tests/fleet/story.py)."""

from tests.fleet.story import lab, story

__all__ = ["lab", "story"]
