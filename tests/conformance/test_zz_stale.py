"""The list of deliberate differences holds nothing that is no difference any more. Runs last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conformance.allowed import Allowed


def test_zz_every_allowed_difference_was_seen(allowed: Allowed, request: pytest.FixtureRequest) -> None:
    chosen = request.config.option
    if chosen.keyword or chosen.markexpr or any("::" in arg for arg in request.config.args):
        pytest.skip("only a whole run can tell which entries are stale")
    if request.session.testsfailed:
        pytest.skip("a failed test may not have reached its differences")
    assert not allowed.stale()
