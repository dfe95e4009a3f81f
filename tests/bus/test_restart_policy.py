from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet_bus.restart_policy import Death, RestartHistory, RestartPolicy, describe_status

POLICY = RestartPolicy(max_quick_deaths=3, window_s=60, quick_s=5, base_delay_s=0.1, max_delay_s=5, jitter=0)


def delays(*deaths: Death, policy: RestartPolicy = POLICY) -> list[float | None]:
    history = RestartHistory(policy)
    return [history.next_delay_s(death) for death in deaths]


def test_delays_double_up_to_the_limit() -> None:
    killed = [Death(at_s=float(i), status=-signal.SIGKILL, ready_for_s=1.0) for i in range(8)]
    assert delays(*killed) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5])


def test_quick_deaths_within_the_window_end_in_giving_up() -> None:
    assert delays(Death(0, 1, None), Death(1, 1, 2.0), Death(2, 1, None))[-1] is None


def test_quick_deaths_far_apart_do_not() -> None:
    assert None not in delays(*(Death(at_s=40.0 * i, status=1, ready_for_s=None) for i in range(20)))


def test_a_long_life_starts_the_count_and_the_delay_again() -> None:
    assert delays(Death(0, 1, 1.0), Death(1, 1, 1.0), Death(20, 1, 5.0), Death(21, 1, 1.0), Death(22, 1, 1.0)) == (
        pytest.approx([0.1, 0.2, 0.1, 0.2, 0.4])
    )


def test_sigkill_before_it_was_ready_counts() -> None:
    assert delays(*(Death(float(i), -signal.SIGKILL, None) for i in range(3)))[-1] is None


@pytest.mark.parametrize("status", [2, 127])
def test_a_usage_error_is_hopeless_only_before_the_first_ready_line(status: int) -> None:
    assert delays(Death(0, status, None)) == [None]
    assert delays(Death(0, 0, 6.0), Death(7, status, None)) == pytest.approx([0.1, 0.2])


@given(
    gaps=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20) | st.none(), st.sampled_from([0, 1, 2, -9, -15]))),
    jitter=st.floats(0, 1),
)
def test_every_delay_is_bounded_and_giving_up_needs_enough_quick_deaths(
    gaps: list[tuple[float, float | None, int]], jitter: float
) -> None:
    policy = RestartPolicy(jitter=jitter)
    history = RestartHistory(policy)
    now = 0.0
    quick: list[float] = []
    ever_ready = False
    for gap, ready_for_s, status in gaps:
        now += gap
        ever_ready = ever_ready or ready_for_s is not None
        quick += [now] if ready_for_s is None or (ready_for_s < policy.quick_s and status != -9) else []
        delay = history.next_delay_s(Death(now, status, ready_for_s))
        if delay is None:
            recent = [at for at in quick if at > now - policy.window_s]
            assert len(recent) >= policy.max_quick_deaths or (status == 2 and not ever_ready)
            return
        assert 0 <= delay <= policy.max_delay_s


def test_statuses_are_told_in_words() -> None:
    assert [describe_status(status) for status in (0, 3, -9, -15, -40)] == [
        "exit status 0", "exit status 3", "killed by SIGKILL", "killed by SIGTERM", "killed by signal 40",
    ]  # fmt: skip
