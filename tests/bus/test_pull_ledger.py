"""What was asked and has not come, and what the server's statuses mean."""

from __future__ import annotations

import pytest

from motet_bus.pull_ledger import PullLedger
from motet_bus.pull_protocol import Verdict, judge


def test_the_ledger_counts_what_may_still_come() -> None:
    ledger = PullLedger()
    ledger.opened("1", 4, expires_at=10)
    ledger.opened("2", 4, expires_at=20)
    for _ in range(5):
        ledger.delivered()
    assert ledger.asked == 3
    ledger.ended("1", 2)  # the server had charged three of the five to the second pull
    assert ledger.asked == 1
    ledger.ended("2", 1)
    assert ledger.asked == 0
    ledger.delivered()
    assert ledger.asked == 0


def test_the_ledger_keeps_count_when_a_later_pull_was_served_first() -> None:
    ledger = PullLedger()
    ledger.opened("1", 4, expires_at=10)
    ledger.opened("2", 4, expires_at=20)
    for _ in range(5):  # the server took two for the first pull and three for the second
        ledger.delivered()
    ledger.ended("2", 1)
    assert ledger.asked == 2
    ledger.ended("1", 2)
    assert ledger.asked == 0


def test_the_ledger_writes_off_what_expired() -> None:
    ledger = PullLedger()
    ledger.opened("1", 4, expires_at=10)
    ledger.opened("2", 3, expires_at=20)
    ledger.expire(now=15)
    assert ledger.asked == 3
    ledger.expire(now=20)
    assert ledger.asked == 0


def test_the_ledger_forgets_a_pull_that_ended_without_a_count() -> None:
    ledger = PullLedger()
    ledger.opened("1", 4, expires_at=10)
    ledger.ended("1", None)
    ledger.ended("1", None)
    assert ledger.asked == 0
    ledger.opened("2", 4, expires_at=10)
    ledger.clear()
    assert ledger.asked == 0


@pytest.mark.parametrize(
    ("status", "description", "verdict"),
    [
        ("100", "Idle Heartbeat", Verdict.ALIVE),
        ("404", "No Messages", Verdict.OVER),
        ("408", "Request Timeout", Verdict.OVER),
        ("409", "Message Size Exceeds MaxBytes", Verdict.OVER),
        ("409", "Leadership Change", Verdict.OVER),
        ("409", "Server Shutdown", Verdict.OVER),
        ("409", "Consumer Deleted", Verdict.MISSING),
        ("503", "", Verdict.MISSING),
        ("409", "Exceeded MaxWaiting", Verdict.REFUSED),
        ("400", "Bad Request", Verdict.REFUSED),
    ],
)
def test_every_status_has_a_meaning(status: str, description: str, verdict: Verdict) -> None:
    assert judge(status, description) is verdict
