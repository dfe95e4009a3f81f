"""Appends to one conversation behave as if they came one after the other: predicted, and searched for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from motet_bus import Bus
from motet_bus.fences import Fence
from motet_gateway.chaos.proxy import FaultyProxy
from motet_schemas import Fact, Namespace
from motet_schemas.subjects import matches
from tests.bus import sequential
from tests.bus.appending import Writer, contested, decision, order_of, renewal, timed_append
from tests.bus.sequential import Append, TooHardError, explain, settle
from tests.bus.servers import NatsServer
from tests.bus.support import bus_as, new_conversation, outsider_writes

pytestmark = pytest.mark.slow

Result = TypeVar("Result")

# One after the other: a model predicts every answer


class Appending(RuleBasedStateMachine):
    """Two writers, one of them over a connection that loses answers, and an outsider, on one conversation."""

    server: NatsServer
    namespace: Namespace
    _proxy: FaultyProxy

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._conversation = new_conversation()
        self._stored: list[tuple[int, str, str]] = []  # sequence, subject, id; an outsider's id is empty
        self._asked: list[tuple[Fact, Fence]] = []
        self._writers: list[Bus] = []

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(work)

    @initialize()
    def connect(self) -> None:
        async def open_all() -> None:
            self._proxy = await self._stack.enter_async_context(FaultyProxy(self.server.port))
            for url in (self.server.url, f"nats://127.0.0.1:{self._proxy.port}"):
                bus = bus_as(url, self.namespace, "specialist")
                self._writers.append(await self._stack.enter_async_context(bus))

        self._run(open_all())

    def teardown(self) -> None:
        self._run(self._stack.aclose())
        self._loop.close()

    @rule(place=st.integers(0, 3), writer=st.integers(0, 1), lose=st.integers(0, 9))
    def take_a_place(self, place: int, writer: int, lose: int) -> None:
        self._append(*contested(self._conversation, place), writer, lose)

    @rule(known=st.integers(0, 30), writer=st.integers(0, 1), lose=st.integers(0, 9))
    def go_on_with_an_attempt(self, known: int, writer: int, lose: int) -> None:
        self._append(*renewal(self._conversation, self._some_sequence(known, "step.")), writer, lose)

    @rule(known=st.integers(0, 30), writer=st.integers(0, 1), lose=st.integers(0, 9))
    def decide(self, known: int, writer: int, lose: int) -> None:
        self._append(*decision(self._conversation, self._some_sequence(known, "")), writer, lose)

    @precondition(lambda self: self._asked)
    @rule(which=st.integers(0, 30), writer=st.integers(0, 1), lose=st.integers(0, 9))
    def say_it_again(self, which: int, writer: int, lose: int) -> None:
        self._append(*self._asked[which % len(self._asked)], writer, lose)

    @rule()
    def write_as_an_outsider(self) -> None:
        subject = f"task.nonsense.{self._conversation}.x"
        seq = self._run(outsider_writes(self._writers[0].link, self.namespace, subject))
        self._stored.append((seq, subject, ""))

    @invariant()
    def the_stream_holds_what_was_predicted(self) -> None:
        if self._writers:
            events = self._run(self._writers[0].journal.read_conversation(self._conversation))
            ours = [one for one in self._stored if one[2]]
            assert [(event.seq, str(event.subject), event.id) for event in events] == ours

    def _some_sequence(self, known: int, family: str) -> int:
        """Return what a writer may believe to be the last sequence: the right one most often, an old one, or none."""
        seqs = [0, *(seq for seq, subject, _ in self._stored if subject.startswith(family))]
        return seqs[-1] if known > 10 else seqs[known % len(seqs)]

    def _append(self, fact: Fact, fence: Fence, writer: int, lose: int) -> None:
        answer, expected = self._predict(fact, fence)
        if writer == 1 and lose == 0:
            self._proxy.lose_next_answer(b'"seq"' if answer == "recorded" and expected is None else b'"error"')
        self._asked.append((fact, fence))
        done = self._run(timed_append(self._writers[writer], fact, fence))
        assert done.answer == answer
        if answer == "refused":
            assert done.found == expected
        elif expected is not None:
            assert done.seq == expected
        else:
            assert all(done.seq > seq for seq, _, _ in self._stored)
            self._stored.append((done.seq, done.subject, done.id))

    def _predict(self, fact: Fact, fence: Fence) -> tuple[Literal["recorded", "refused"], int | None]:
        """Return the answer: recorded (at a sequence that is known when it was recorded before), or refused for one."""
        subject = str(fact.subject)
        there = [one for one in self._stored if matches(fence.filter or subject, one[1])]
        last = there[-1][0] if there else 0
        ours = [one for one in there if one[0] > fence.last and one[2]]
        if (known := next((seq for seq, name, id_ in ours if (name, id_) == (subject, fact.id)), None)) is not None:
            return "recorded", known
        only_strangers = fence.filter is not None and last > fence.last and not ours
        if last == fence.last or only_strangers:
            return "recorded", None
        return "refused", ours[-1][0] if ours else last


@pytest.mark.open_server
@pytest.mark.timeout(600)
@pytest.mark.parametrize("examples", [5, pytest.param(200, marks=pytest.mark.chaos)])
def test_a_model_of_the_stream_predicts_every_answer(
    nats_server: NatsServer, namespace: Namespace, examples: int
) -> None:
    class Here(Appending):
        server = nats_server

    Here.namespace = namespace
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_machine(
        Here,
        settings=settings(
            max_examples=examples, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=slow
        ),
    )


# At the same time: some order must explain every answer


@pytest.mark.open_server
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(1, 10))])
async def test_concurrent_appends_have_an_order_that_explains_every_answer(
    nats_server: NatsServer, namespace: Namespace, seed: int
) -> None:
    conversation = new_conversation()
    async with AsyncExitStack() as stack:
        writers: list[Writer] = []
        for number in range(5):
            proxy = await stack.enter_async_context(FaultyProxy(nats_server.port))
            url = f"nats://127.0.0.1:{proxy.port}"
            bus = await stack.enter_async_context(bus_as(url, namespace, "specialist"))
            rng = random.Random(100 * seed + number)  # noqa: S311
            writers.append(Writer(bus, conversation, rng, proxy=proxy))
        await asyncio.gather(*(writer.write(12) for writer in writers))
        operations = [one for writer in writers for one in writer.operations]
        assert await order_of(writers[0].bus, conversation, operations) is not None
        answers = [one.answer for one in operations]
        assert min(answers.count("recorded"), answers.count("refused")) > 5
        assert any(writer.proxy.lost for writer in writers if writer.proxy)


# The search itself: it must be able to say no


def op(subject: str, invoked: float, answered: float, **said: Any) -> Append:
    """One append to `subject`, whose fence is its own subject at 0 unless said otherwise."""
    made: dict[str, Any] = {"id": f"{subject}-{invoked}", "filter": subject, "last": 0, "answer": "recorded", **said}
    return Append(subject=subject, invoked=invoked, answered=answered, **made)


EVERYTHING: Final = "*.*.c.>"
A, B, C = "task.cancel.c.a", "task.cancel.c.b", "task.cancel.c.c"


def test_an_order_is_found_among_appends_that_overlap() -> None:
    history = [
        op(A, 0, 9, seq=7, filter=EVERYTHING, last=5),
        op(B, 1, 4, seq=5),
        op(B, 2, 8, answer="refused", found=5),
        op(C, 3, 3.5, answer="refused", filter=EVERYTHING, last=7, found=0),
    ]
    order = explain(history)
    assert order is not None
    assert [one.subject for one in order] in ([C, B, B, A], [C, B, A, B])


@pytest.mark.parametrize(
    "history",
    [
        [op(A, 0, 1, seq=1), op(A, 0, 1, seq=2)],
        [op(A, 0, 1, seq=2), op(B, 2, 3, seq=1)],
        [op(A, 0, 1, answer="refused", found=1), op(A, 2, 3, seq=1)],
        [op(A, 0, 1, seq=1), op(A, 2, 3, answer="refused", found=0)],
        [op(A, 0, 1, seq=1), op(A, 0, 1, answer="refused", found=2)],
        [op(A, 0, 5, seq=1), op(B, 0, 5, seq=2, filter=EVERYTHING)],
        [op(A, 0, 1, seq=1), op(B, 2, 3, seq=2, filter=EVERYTHING, last=0)],
        [op(A, 0, 1, seq=3), op(C, 2, 3, answer="refused", last=2, filter=EVERYTHING), op(C, 4, 5, seq=4, last=2)],
    ],
    ids=[
        "one subject taken twice",
        "the stream's order is not that of time",
        "refused for what came later",
        "recorded, and then not there",
        "refused for what is nowhere",
        "a wide fence passed what was there",
        "a wide fence passed what was there long ago",
        "a stale decision after a refusal",
    ],
)
def test_a_history_that_no_order_explains_is_found_out(history: list[Append]) -> None:
    assert explain(history) is None


def test_what_was_not_answered_took_effect_or_did_not_as_the_stream_says() -> None:
    lost = op(A, 0, 1, answer="unknown")
    refused = op(A, 5, 6, answer="refused", found=3)
    assert explain(settle([lost, refused], {lost.id: 3})) is not None
    assert explain(settle([lost, refused], {})) is None
    assert explain(settle([lost, op(A, 5, 6, seq=1)], {})) is not None
    early = op(A, -2, -1, answer="refused", found=3)
    assert explain(settle([lost, early], {lost.id: 3})) is None


def test_a_search_that_takes_too_long_is_given_up_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "MOST_CONFIGURATIONS", 50)
    impossible = [op(A, 0, 9, answer="refused", last=5, id=str(number)) for number in range(8)]
    impossible.append(op(A, 0, 9, seq=1, last=7))
    with pytest.raises(TooHardError):
        explain(impossible)
