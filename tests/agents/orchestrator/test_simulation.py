"""Whole conversations under any schedule: one owner, every fact once, never over budget, always an end or a human."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from motet_schemas.audit import audit
from tests.agents.orchestrator.simulation import ACTIONS, Simulation

actions = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 10_000)), min_size=20, max_size=120)
tidy = st.lists(
    st.tuples(st.sampled_from([one for one in ACTIONS if one not in ("rubbish", "cancel")]), st.integers(0, 10_000)),
    min_size=20,
    max_size=120,
)


@given(seed=st.integers(0, 1_000), schedule=actions)
@example(seed=0, schedule=[])
def test_everything_holds_under_any_schedule_and_rubbish(seed: int, schedule: list[tuple[str, int]]) -> None:
    simulation = Simulation(seed)
    for action, number in schedule:
        simulation.act(action, number)
    simulation.check()
    simulation.settle()
    simulation.silence()
    simulation.check()
    assert audit("c", simulation.events()) == []


@given(seed=st.integers(0, 1_000), schedule=tidy)
def test_everything_holds_among_ourselves(seed: int, schedule: list[tuple[str, int]]) -> None:
    simulation = Simulation(seed)
    for action, number in schedule:
        simulation.act(action, number)
    simulation.settle()
    simulation.silence()
    simulation.check()
    assert audit("c", simulation.events()) == []
