"""Dead letters are kept with all that helps, retried by the consumer that gave up and by no other, or given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest

from motet_bus import Agent, Bus, Context, Outcome, RunOptions, Step
from motet_bus import dead_letters as dead_letters_module
from motet_bus.consumer import ConsumerSettings
from motet_bus.dead_letters import failure_of
from motet_bus.letter_acts import discard, retry
from motet_bus.letters import DeadLetters, KeptLetter, LetterFilter
from motet_bus.link import Link
from motet_schemas import (
    BusUnavailableError,
    ConflictError,
    DeadLetter,
    Failure,
    InvalidInputError,
    LetterDead,
    LetterRetried,
    Namespace,
    NotFoundError,
    PermanentError,
    TaskSubmitted,
    fold_all,
)
from tests.bus.support import (
    Running,
    bus_as,
    dead_letters,
    eventually,
    executed,
    is_settled,
    kinds,
    last_of,
    offer,
    outsider_writes,
    running,
    stored_twice,
    submit,
)

ALL = LetterFilter(statuses=frozenset({"dead", "retried", "discarded"}))


def serving(agent: Agent, url: str, namespace: Namespace) -> AbstractAsyncContextManager[Running]:
    """Run an agent with the waits of production: nothing here is delivered twice because the machine is busy."""
    return running(agent, url, namespace, RunOptions())


class Fault:
    """What breaks handlers for as long as `there`; `runs` counts every run of one."""

    def __init__(self) -> None:
        self.there = True
        self.runs = 0

    def strike(self) -> None:
        self.runs += 1
        if self.there:
            secret = "hunter2-in-a-local"  # noqa: S105 - must not show up in a stack trace
            if secret:
                raise PermanentError("nats://motet:pass%2Fword@127.0.0.1:4222 does not answer")


def worker(fault: Fault) -> Agent:
    agent = Agent("worker", role="executor")

    @agent.step("work")
    async def work(step: Step) -> Outcome:
        fault.strike()
        return Outcome.passed(confidence=1.0, output=fault.runs)

    return agent


def listener(fault: Fault, name: str = "learner") -> Agent:
    agent = Agent(name)

    @agent.on("task.submitted", name=name)
    async def learn(event: TaskSubmitted, context: Context) -> None:
        fault.strike()

    return agent


@pytest.fixture
async def operator(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "operator") as bus:
        yield bus


@pytest.fixture
async def client(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    async with bus_as(nats_url, namespace, "client") as bus:
        yield bus


async def letters(bus: Bus, wanted: LetterFilter | None = None) -> list[KeptLetter]:
    return [kept async for kept in DeadLetters(bus).find_all(wanted or LetterFilter())]


async def the_letter(bus: Bus, wanted: LetterFilter | None = None) -> KeptLetter:
    """The only letter, as soon as it is there and its conversation was told."""

    async def look() -> KeptLetter | None:
        found = await letters(bus, wanted)
        if not found or await bus.journal.read_last(f"letter.dead.*.{found[0].letter.consumer}.>") is None:
            return None
        assert len(found) == 1
        return await DeadLetters(bus).find(found[0].id)

    return await eventually(look)


async def of_the_consumer(link: Link, namespace: Namespace, name: str) -> None:
    await eventually(lambda: is_settled(link, namespace, name))


# What a letter says


async def test_a_letter_says_what_broke_who_gave_up_and_when(
    nats_url: str, namespace: Namespace, client: Bus, operator: Bus
) -> None:
    fault, before = Fault(), datetime.now(UTC) - timedelta(seconds=5)
    async with serving(listener(fault), nats_url, namespace) as agent:
        submitted = await submit(client, "c1")
        kept = await the_letter(operator)
    assert kept.id == f"learner-{submitted.seq}"
    assert (kept.conversation, kept.agent, kept.status) == ("c1", "learner", "dead")
    assert kept.letter.instance == agent.card.instance
    assert kept.letter.version == agent.card.version == version("motet")
    assert before < kept.first_failed_at <= datetime.now(UTC) + timedelta(seconds=5)
    assert kept.died_at > before
    assert b'"kind":"content-qa"' in await DeadLetters(operator).payload(kept)
    assert (await letters(operator))[0].letter.body == "", "a list must not hold all bodies"


async def test_no_password_and_no_local_variable_is_kept(
    nats_url: str, namespace: Namespace, client: Bus, operator: Bus
) -> None:
    async with serving(listener(Fault()), nats_url, namespace):
        await submit(client, "c1")
        kept = await the_letter(operator)
    notice = await last_of(operator, "letter.dead.c1.>")
    assert kept.letter.failure.message == "nats://***@127.0.0.1:4222 does not answer"
    assert "strike" in kept.letter.stack
    assert isinstance(notice.data, LetterDead)
    for text in (kept.letter.to_json(), notice.data.to_json()):
        assert b"pass%2Fword" not in text
        assert b"hunter2" not in text


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach nats://me:s3cret@host:4222: refused",
        "nats://s3cret@host",
        "tls://a:s3cret@one,tls://b:s3cret@two",
        "postgres://u:s3cret@[::1]/db?x=1 and http://example.com/@someone",
    ],
)
def test_user_information_in_an_address_is_no_part_of_a_failure(text: str) -> None:
    failure = failure_of(RuntimeError(text))
    assert "s3cret" not in failure.message
    assert "***@" in failure.message


async def test_letters_of_an_older_version_can_be_read(link: Link, namespace: Namespace, operator: Bus) -> None:
    failure = Failure(code="exception", message="m")
    old = DeadLetter(
        consumer="learn",
        subject="task.submitted.c1.x",
        sequence=7,
        deliveries=5,
        failure=failure,
        instance="learner-0a1b2c3d",
        stored_at=datetime.now(UTC),
    )
    body = old.model_dump_json(exclude={"message", "agent", "version", "first_failed_at"})
    await link.publish_stored(namespace.wire("dead.learn.c1.7"), body.encode(), {})
    await link.publish_stored(namespace.wire("dead.learn.c1.8"), b"rubbish", {})
    [kept] = await letters(operator)
    assert (kept.id, kept.agent, kept.first_failed_at) == ("learn-7", "learner", kept.died_at)


async def test_letters_are_found_by_what_they_are_about(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus
) -> None:
    fault = Fault()
    async with (
        serving(listener(fault, "one"), nats_url, namespace),
        serving(listener(fault, "two"), nats_url, namespace),
    ):
        for name in ("c1", "c2"):
            await submit(client, name)
        await outsider_writes(link, namespace, "task.submitted.c3.content-qa")
        await eventually(lambda: _as_many(operator, 6))
    every = await letters(operator)
    middle = every[3].died_at
    assert {one.conversation for one in await letters(operator, LetterFilter(consumer="one"))} == {"c1", "c2", "c3"}
    assert {one.letter.consumer for one in await letters(operator, LetterFilter(conversation="c2"))} == {"one", "two"}
    assert len(await letters(operator, LetterFilter(code="unreadable"))) == 2
    assert len(await letters(operator, LetterFilter(agent="two"))) == 3
    assert await letters(operator, LetterFilter(until=middle)) == every[:3]
    assert await letters(operator, LetterFilter(since=middle)) == every[3:]
    with pytest.raises(InvalidInputError):
        await letters(operator, LetterFilter(consumer="*"))


async def _as_many(bus: Bus, number: int) -> bool:
    return len(await letters(bus)) == number


async def test_an_unknown_letter_is_answered_with_the_nearest(
    nats_url: str, namespace: Namespace, client: Bus, operator: Bus
) -> None:
    async with serving(listener(Fault()), nats_url, namespace):
        await submit(client, "c1")
        kept = await the_letter(operator)
    with pytest.raises(NotFoundError, match=f"did you mean {kept.id}"):
        await DeadLetters(operator).find(kept.id.replace("learner", "leaner"))
    for nonsense in ("", "x", "learner-*", "*-1", "learner-1.>", "learner-99999"):
        with pytest.raises(NotFoundError, match="no dead letter"):
            await DeadLetters(operator).find(nonsense)


# Retrying


async def test_a_retried_message_is_handled_by_the_consumer_that_gave_up_and_by_no_other(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus
) -> None:
    broken, whole = Fault(), Fault()
    whole.there = False
    async with (
        serving(listener(broken, "broken"), nats_url, namespace),
        serving(listener(whole, "whole"), nats_url, namespace),
    ):
        submitted = await submit(client, "c1")
        kept = await the_letter(operator)
        broken.there = False
        seq = await retry(operator, kept, by="ann", reason="the database is back")
        await eventually(lambda: operator.journal.read_last(f"handled.broken.c1.{submitted.seq}"))
        await of_the_consumer(link, namespace, "broken")
        await of_the_consumer(link, namespace, "whole")
    assert (broken.runs, whole.runs) == (2, 1)
    act = await last_of(operator, f"letter.retried.c1.broken.{submitted.seq}")
    assert (act.seq, act.source.split("/")[2]) == (seq, "operator")
    assert isinstance(act.data, LetterRetried)
    assert (act.data.by, act.data.reason, act.data.message) == ("ann", "the database is back", submitted.seq)
    assert await letters(operator) == []
    [done] = await letters(operator, ALL)
    assert (done.status, done.by, done.reason, done.acted_at) == ("retried", "ann", "the database is back", act.time)
    assert fold_all("c1", await client.journal.read_conversation("c1")).letters[kept.id].status == "retried"


async def test_a_retry_waits_for_a_consumer_that_is_down(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus
) -> None:
    fault = Fault()
    async with serving(listener(fault), nats_url, namespace):
        submitted = await submit(client, "c1")
        kept = await the_letter(operator)
    fault.there = False
    await retry(operator, kept, by="ann")
    assert fault.runs == 1
    async with serving(listener(fault), nats_url, namespace):
        await eventually(lambda: operator.journal.read_last(f"handled.learner.c1.{submitted.seq}"))
        await of_the_consumer(link, namespace, "learner")
    assert fault.runs == 2


async def test_a_message_that_dies_again_is_another_letter_that_remembers_the_first(
    nats_url: str, namespace: Namespace, client: Bus, operator: Bus
) -> None:
    fault = Fault()
    async with serving(listener(fault), nats_url, namespace):
        submitted = await submit(client, "c1")
        first = await the_letter(operator)
        seq = await retry(operator, first, by="ann")
        second = await the_letter(operator)
        assert second.id == f"learner-{seq}"
        assert (second.conversation, second.letter.subject) == ("c1", first.letter.subject)
        assert (second.message, second.letter.deliveries) == (submitted.seq, 2)
        assert second.first_failed_at == first.first_failed_at
        assert second.died_at > first.died_at
        assert (second.letter.body, second.letter.headers) == (first.letter.body, first.letter.headers)
        fault.there = False
        await retry(operator, second, by="ben")
        await eventually(lambda: operator.journal.read_last(f"handled.learner.c1.{submitted.seq}"))
    assert fault.runs == 3
    assert await letters(operator) == []
    assert [(one.id, one.by) for one in await letters(operator, ALL)] == [(first.id, "ann"), (second.id, "ben")]
    told = [event.subject.letter for event in await operator.journal.read_kind("letter.dead.>")]
    assert told == [first.id, second.id]


async def test_a_step_that_broke_before_its_claim_runs_when_it_is_retried(
    nats_url: str, namespace: Namespace, operator: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handler never ran: the very attempt that was handed out is made good."""
    from motet_bus.claims import HeldClaim

    fault, take = Fault(), HeldClaim.take
    fault.there = False

    async def refused(*args: object, **kwargs: object) -> None:
        raise PermanentError("no claim today")

    async with bus_as(nats_url, namespace, "orchestrator") as orchestrator:
        monkeypatch.setattr(HeldClaim, "take", refused)
        async with serving(worker(fault), nats_url, namespace):
            await offer(orchestrator, "c1")
            kept = await the_letter(operator)
            monkeypatch.setattr(HeldClaim, "take", take)
            await retry(operator, kept, by="ann")
            record = await eventually(lambda: executed(operator, "c1"))
    assert record.status == "passed"
    assert await kinds(operator, "c1") == [
        "step.ready",
        "letter.dead",
        "letter.retried",
        "step.claimed",
        "step.executed",
    ]


async def test_retrying_a_step_of_a_conversation_that_has_ended_changes_nothing(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus
) -> None:
    fault = Fault()
    async with bus_as(nats_url, namespace, "orchestrator") as orchestrator:
        await submit(client, "c1")
        async with serving(worker(fault), nats_url, namespace):
            await offer(orchestrator, "c1")
            kept = await the_letter(operator)
            await eventually(lambda: executed(operator, "c1"))
            await outsider_writes(link, namespace, "task.failed.c1.content-qa", _end())
            before = fold_all("c1", await client.journal.read_conversation("c1"))
            assert before.ending is not None
            await retry(operator, kept, by="ann")
            await of_the_consumer(link, namespace, "step-work")
        after = fold_all("c1", await client.journal.read_conversation("c1"))
    assert fault.runs == 1
    assert after.evolve(last_seq=before.last_seq, now=before.now) == before
    assert await letters(operator) == []


def _end() -> bytes:
    from motet_schemas import TaskFailed, TotalUsage

    usage = TotalUsage(tokens=None, cost_usd=None, attempts=1, elapsed_ms=5)
    return TaskFailed(verdict="needs_human", summary="s", usage=usage).to_json()


async def test_two_operators_retry_at_once_and_one_wins(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus
) -> None:
    fault = Fault()
    async with serving(listener(fault), nats_url, namespace):
        await submit(client, "c1")
        kept = await the_letter(operator)
        fault.there = False
        results = await asyncio.gather(
            *(retry(operator, kept, by=f"op-{number}") for number in range(4)),
            *(discard(operator, kept, by=f"no-{number}", reason="old") for number in range(4)),
            return_exceptions=True,
        )
        winners = [result for result in results if isinstance(result, int)]
        refused = [result for result in results if isinstance(result, ConflictError)]
        assert (len(winners), len(refused)) == (1, 7)
        await of_the_consumer(link, namespace, "learner")
    [done] = await letters(operator, ALL)
    assert all(f"{done.status} by {done.by} at " in str(error) for error in refused)
    assert fault.runs == (2 if done.status == "retried" else 1)
    assert await stored_twice(link, namespace) == []
    with pytest.raises(ConflictError, match=f"by {done.by}"):
        await retry(operator, done, by="late")


async def test_an_outsiders_rubbish_is_no_act_and_keeps_nobody_from_acting(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus
) -> None:
    fault = Fault()
    async with serving(listener(fault), nats_url, namespace):
        submitted = await submit(client, "c1")
        kept = await the_letter(operator)
        rubbish = await outsider_writes(link, namespace, f"letter.retried.c1.learner.{submitted.seq}")
        await outsider_writes(link, namespace, f"letter.discarded.c1.learner.{submitted.seq}")
        assert fold_all("c1", await client.journal.read_conversation("c1")).letters[kept.id].status == "dead"
        await eventually(lambda: _as_many(operator, 2))
        fault.there = False
        await retry(operator, kept, by="ann")
        await eventually(lambda: operator.journal.read_last(f"handled.learner.c1.{submitted.seq}"))
    assert [one.id for one in await letters(operator)] == [f"learner-{rubbish}"]
    assert fold_all("c1", await client.journal.read_conversation("c1")).letters[kept.id].status == "retried"


async def test_a_retry_that_an_older_worker_could_not_read_can_be_retried(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus
) -> None:
    """Motet 0.1.0 beside us hears of the retry, knows no such subject, and buries it."""
    fault = Fault()
    async with serving(listener(fault), nats_url, namespace):
        submitted = await submit(client, "c1")
        first = await the_letter(operator)
    seq = await retry(operator, first, by="ann")
    stream = namespace.stream("CONVERSATIONS")
    await link.api(f"CONSUMER.RESET.{stream}.learner", {"seq": seq + 1})
    retried = await last_of(operator, f"letter.retried.c1.learner.{submitted.seq}")
    assert isinstance(retried.data, LetterRetried)
    buried = DeadLetter(
        consumer="learner",
        subject=namespace.wire(retried.subject),
        sequence=seq,
        deliveries=1,
        failure=Failure(code="unreadable", message="takes 1 token(s) behind the conversation, not 2"),
        headers=dict(retried.headers),
        stored_at=retried.time,
    )
    await link.publish_stored(namespace.wire(f"dead.learner.none.{seq}"), buried.to_json(), {})
    [second] = await letters(operator)
    assert second.conversation == "c1"
    fault.there = False
    await retry(operator, second, by="ben")
    async with serving(listener(fault), nats_url, namespace):
        await eventually(lambda: operator.journal.read_last(f"handled.learner.c1.{submitted.seq}"))
    assert fault.runs == 2
    assert await letters(operator) == []


@pytest.mark.parametrize(
    ("message", "says"), [(99, "not older"), (2, "does not listen"), (None, "has left the stream")]
)
async def test_a_forged_retry_makes_no_consumer_handle_what_is_not_its_own(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus, message: int | None, says: str
) -> None:
    fault = Fault()
    fault.there = False
    await submit(client, "other")
    await outsider_writes(link, namespace, "task.cancel.c1.me", b"{}")
    forged = LetterRetried(by="mallory", message=message)
    await outsider_writes(link, namespace, "letter.retried.c1.learner.1", forged.to_json())
    async with serving(listener(fault), nats_url, namespace):
        await of_the_consumer(link, namespace, "learner")
    [letter] = await dead_letters(link, namespace)
    assert says in letter.failure.message
    assert fault.runs == 1


async def test_a_retry_whose_message_left_the_stream_is_a_letter_that_says_so(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus
) -> None:
    fault = Fault()
    async with serving(listener(fault), nats_url, namespace):
        submitted = await submit(client, "c1")
        kept = await the_letter(operator)
    await retry(operator, kept, by="ann")
    stream = namespace.stream("CONVERSATIONS")
    await link.api(f"STREAM.PURGE.{stream}", {"filter": namespace.wire("task.submitted.c1.>")})
    async with serving(listener(fault), nats_url, namespace):
        gone = await the_letter(operator)
    assert (gone.letter.failure.code, gone.message) == ("message_gone", submitted.seq)
    assert gone.letter.subject == kept.letter.subject
    assert fault.runs == 1
    with pytest.raises(NotFoundError, match="not in the stream any more"):
        await retry(operator, gone, by="ann")
    await discard(operator, gone, by="ann", reason="archived")


async def test_a_retry_that_would_reach_nobody_is_refused(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus
) -> None:
    async with serving(listener(Fault()), nats_url, namespace):
        await submit(client, "c1")
        kept = await the_letter(operator)
    stream = namespace.stream("CONVERSATIONS")
    config = (await link.api(f"CONSUMER.INFO.{stream}.learner", {}))["config"]
    await link.api(f"CONSUMER.DELETE.{stream}.learner", {})
    with pytest.raises(NotFoundError, match="no consumer learner any more"):
        await retry(operator, kept, by="ann")
    old = {**config, "filter_subjects": [namespace.wire("task.submitted.>")]}
    await link.api(f"CONSUMER.CREATE.{stream}.learner", {"stream_name": stream, "config": old, "action": "create"})
    with pytest.raises(ConflictError, match="too old to hear of retries"):
        await retry(operator, kept, by="ann")
    assert await kinds(operator, "c1") == ["task.submitted", "letter.dead"]


async def test_a_message_of_no_conversation_is_kept_and_can_only_be_discarded(
    nats_url: str, namespace: Namespace, link: Link, operator: Bus, client: Bus
) -> None:
    subject = namespace.wire("task.submitted.no-detail")
    async with serving(listener(Fault()), nats_url, namespace):
        await outsider_writes(link, namespace, "task.submitted.no-detail")
        kept = await eventually(lambda: _first(operator))
    assert (kept.conversation, kept.letter.subject) == (None, subject)
    with pytest.raises(InvalidInputError, match="discard it"):
        await retry(operator, kept, by="ann")
    await discard(operator, kept, by="ann", reason="a typo")
    assert await letters(operator) == []
    [done] = await letters(operator, ALL)
    assert (done.status, done.by, done.reason) == ("discarded", "ann", "a typo")
    from motet_bus import Client

    assert await Client(client).conversations() == []


async def _first(bus: Bus) -> KeptLetter | None:
    found = await letters(bus)
    return found[0] if found else None


async def test_who_listens_to_retries_hears_of_its_own_too(
    nats_url: str, namespace: Namespace, link: Link, client: Bus, operator: Bus
) -> None:
    fault, heard = Fault(), list[str]()
    agent = Agent("auditor")

    @agent.on("task.submitted", "letter.retried", name="auditor")
    async def audit(event: TaskSubmitted | LetterRetried, context: Context) -> None:
        if isinstance(event, LetterRetried):
            heard.append(context.subject.letter)
        else:
            fault.strike()

    async with serving(agent, nats_url, namespace):
        submitted = await submit(client, "c1")
        kept = await the_letter(operator)
        fault.there = False
        await retry(operator, kept, by="ann")
        await of_the_consumer(link, namespace, "auditor")
        await eventually(lambda: operator.journal.read_last(f"handled.auditor.c1.{submitted.seq}"))
    assert (fault.runs, heard) == (2, [kept.id])
    assert await letters(operator) == []


def test_a_consumer_asks_for_its_retries_without_an_overlap(namespace: Namespace) -> None:
    """The server refuses filters that overlap."""

    class Named:
        def __init__(self) -> None:
            self.namespace = namespace

    def filters(*names: str) -> list[str]:
        spec = ConsumerSettings(durable="me", filters=names).spec(Named())  # type: ignore[arg-type]
        return [namespace.strip(name) for name in spec.filter_subjects]

    assert filters("task.submitted.>") == ["task.submitted.>", "letter.retried.*.me.*"]
    assert filters("task.submitted.>", "letter.retried.>") == ["task.submitted.>", "letter.retried.>"]


async def test_a_letter_whose_writer_died_before_it_told_of_it_is_told_by_whoever_handles_the_message(
    nats_url: str, namespace: Namespace, operator: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by thirty minutes of chaos: the next run went well, and nobody said that there is a letter."""
    fault, tell = Fault(), dead_letters_module.tell

    async def die(*_args: object) -> None:
        fault.there = False
        monkeypatch.setattr(dead_letters_module, "tell", tell)
        raise BusUnavailableError("killed before it could tell")

    monkeypatch.setattr(dead_letters_module, "tell", die)
    async with bus_as(nats_url, namespace, "client") as client, serving(listener(fault), nats_url, namespace):
        event = await submit(client, "c1")
        told = await eventually(lambda: operator.journal.read_last("letter.dead.c1.>"))
    assert fault.runs == 2
    assert told.subject.letter == f"learner-{event.seq}"
