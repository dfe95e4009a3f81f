"""Drafts that were made to be expensive are checked with little memory."""

from __future__ import annotations

import pytest

from tests.doors.measured import MOST_MIB, in_a_child

pytestmark = pytest.mark.slow


def test_contrived_drafts_are_checked_with_little_memory() -> None:
    _check(30_000, within_s=100)


@pytest.mark.chaos
@pytest.mark.timeout(1_300)
def test_large_contrived_drafts_are_checked_with_little_memory() -> None:
    _check(1_000_000, within_s=1_200)


def _check(size: int, *, within_s: float) -> None:
    done = in_a_child("tests.doors.drafts:check_all", str(size), within_s=within_s)
    assert len(done.result) > 20
    assert done.peak_mib < MOST_MIB
