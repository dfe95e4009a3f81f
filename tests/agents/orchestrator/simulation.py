"""A whole conversation, simulated: orchestrators that are slow, stale or crash, agents, humans, rubbish and time.

After every step the invariants of ARCHITECTURE §1 and §4 are checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final, Literal

from motet_agents.orchestrator import WAKES, decide
from motet_bus import Decision
from motet_bus.fences import Fence, conversation_fence
from motet_schemas import (
    ConflictError,
    Conversation,
    Event,
    Fact,
    Handled,
    Policy,
    TaskSubmitted,
    Unreadable,
    decode_output,
)
from motet_schemas.standing import open_questions
from motet_schemas.subjects import build, handled
from tests.agents.orchestrator.agents_at_work import Agents
from tests.agents.orchestrator.invariants import check_decision, check_state, check_stream
from tests.agents.orchestrator.memory_stream import MemoryStream, Stored

ACTIONS: Final = (
    *("orchestrate", "commit") * 6,
    *("plan", "work", "finish", "verify") * 3,
    *("answer", "answer", "advance", "renew", "die", "crash", "operate", "rubbish", "rubbish", "cancel"),
)


Emitted = Literal["complete", "taken", "crashed"]


@dataclass
class Flight:
    """A decision on its way: made on what was recorded then."""

    wake: Event
    state: Conversation
    decision: Decision


class Simulation:
    """One conversation from its submission on. Everything that happens is chosen by numbers, so it can be repeated."""

    def __init__(self, seed: int = 0) -> None:
        rng = Random(seed)  # noqa: S311 - chosen by Hypothesis
        self.stream = MemoryStream()
        policy = Policy(
            max_parallel=rng.randint(1, 3),
            max_replans=rng.randint(0, 2),
            human_sla_s=600,
            on_timeout=rng.choice(["reject", "approve"]),
        )
        self.agents = Agents(self.stream, policy)
        self.wakes: list[Event] = []
        self.flights: list[Flight] = []
        self.stream.listeners.append(self._wake)
        self.stream.append(
            Fact(build("task.submitted", "c", "content-qa"), TaskSubmitted(kind="content-qa")), by="client"
        )

    def _wake(self, stored: Stored) -> None:
        if stored.event.kind in WAKES:
            self.wakes.append(stored.event)

    def act(self, action: str, number: int) -> None:
        """Let one thing happen, and check that all still holds."""
        rng = Random(number)  # noqa: S311 - chosen by Hypothesis
        match action:
            case "orchestrate":
                self._orchestrate(rng)
            case "commit":
                self._commit(rng)
            case "crash":
                if self.flights:
                    self.flights.remove(rng.choice(self.flights))
            case "advance":
                self.stream.advance(timedelta(seconds=rng.choice([1, 5, 5, 31, 31, 61, 300])))
            case _:
                getattr(self.agents, action)(rng)
        check_state(self.stream.load())

    def _orchestrate(self, rng: Random) -> None:
        """An orchestrator takes a wake-up, loads, emits what is pending, and decides."""
        if not self.wakes:
            return
        wake = rng.choice(self.wakes[:3])
        if isinstance(wake.data, Unreadable):
            self.agents.bury(wake, "orchestrator")
            self.wakes.remove(wake)
            return
        state = self.stream.load(fresh=rng.random() < 0.3)
        emitted = self._emit_pending(state, wake, rng)
        if emitted != "crashed":
            self._decide(wake, state if emitted == "complete" else self.stream.load(fresh=True))

    def _decide(self, wake: Event, state: Conversation) -> None:
        decision = decide(state)
        check_decision(state, decision)
        if decision.facts:
            self.flights.append(Flight(wake, state, decision))
        else:
            self._settled(wake)

    def _settled(self, wake: Event) -> None:
        if wake in self.wakes:
            self.wakes.remove(wake)

    def _emit_pending(self, state: Conversation, wake: Event, rng: Random) -> Emitted:
        facts: list[Fact] = []
        for output, _ in state.pending.values():
            subject, data = decode_output(output)
            assert not isinstance(data, Unreadable)
            facts.append(Fact(subject, data, output.id))
        return self._emit(facts, wake, rng)

    def _emit(self, facts: list[Fact], wake: Event, rng: Random) -> Emitted:
        """Emit in any order. Says whether the orchestrator crashed on the way, or found a place taken."""
        complete = True
        for fact in rng.sample(facts, len(facts)):
            if rng.random() < 0.1:
                return "crashed"
            try:
                self.stream.append(fact, by="orchestrator", fence=Fence(0), cause=wake.seq)
            except ConflictError:
                stored = self.stream.messages[self.stream.last(str(fact.subject))].event
                complete = complete and stored.id == fact.id
        return "complete" if complete else "taken"

    def _commit(self, rng: Random) -> None:
        if not self.flights:
            return
        flight = rng.choice(self.flights)
        self.flights.remove(flight)
        state, facts = flight.state, flight.decision.facts
        single = len(facts) == 1
        fact = (
            facts[0]
            if single
            else Fact(
                handled("orchestrator", "c", state.last_seq), Handled(outputs=tuple(one.to_output() for one in facts))
            )
        )
        stale = self.stream.last("*.*.c.>") != state.last_seq
        try:
            self.stream.append(
                fact, by="orchestrator", fence=conversation_fence("c", state.last_seq), cause=flight.wake.seq
            )
        except ConflictError:
            assert stale
            fresh = self.stream.load(fresh=True)
            if self._emit_pending(fresh, flight.wake, rng) != "crashed":
                self._decide(flight.wake, self.stream.load(fresh=True))
            return
        assert not stale, "a decision on what is no longer so was recorded"
        emitted = "complete" if single else self._emit(list(facts), flight.wake, rng)
        if emitted == "crashed" or rng.random() < 0.1:
            return  # behind the commit: the wake-up is delivered again
        if flight.decision.final and emitted == "complete":
            self._settled(flight.wake)
        else:
            self._decide(flight.wake, self.stream.load(fresh=True))

    def settle(self, rounds: int = 400) -> None:
        """Let everybody do their work until the conversation has ended or a human must speak; else fail."""
        for number in range(rounds):
            rng = Random(number)  # noqa: S311
            if self._busy():
                for action in ("orchestrate", "commit"):
                    self.act(action, number)
                self.agents.plan(rng, fair=True)
                self.agents.work(rng)
                self.agents.finish(rng, fair=True)
                self.agents.verify(rng, fair=True)
                continue
            state = self.stream.load()
            if state.ending is not None or open_questions(state):
                return
            due = self.stream.next_due()
            if self.agents.queues["worker"]:
                self.stream.advance(timedelta(seconds=self.agents.ttl_s))
            elif due is not None:
                self.stream.advance(due - self.stream.now)
            else:
                raise AssertionError("it hangs: nobody has anything to do, no timer runs, nobody is asked")
        raise AssertionError("it never comes to rest")

    def _busy(self) -> bool:
        queues, claimed = self.agents.queues, {run.ready.seq for run in self.agents.runs}
        free = [event for event in queues["worker"] if event.seq not in claimed and not self.agents.is_held(event)]
        return bool(self.wakes or self.flights or self.agents.runs or free or queues["planner"] or queues["verifier"])

    def silence(self, rounds: int = 40) -> None:
        """Nobody answers any more: it must end all the same."""
        for _ in range(rounds):
            self.settle()
            if self.stream.load().ending is not None:
                return
            due = self.stream.next_due()
            assert due is not None, "a human is asked, but nothing says until when"
            self.stream.advance(due - self.stream.now)
        raise AssertionError("silence never ends it")

    def events(self) -> list[Event]:
        """Return all that was recorded."""
        return [stored.event for stored in self.stream.messages.values()]

    def check(self) -> None:
        """Check what must hold of the whole stream."""
        check_stream(self.stream)
