"""The doctor's look at the consumers: is each as it must be, does its work move, does anybody serve it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from motet_bus import AgentCard
from motet_bus.topology import ConsumerSpec, differences
from motet_gateway.consumers import ConsumerState
from motet_gateway.doctor_finding import Finding, Status
from motet_gateway.operating import pause_line
from motet_schemas import Namespace

_START: Final = "start an agent that serves it: `motet up`, or `motet agent MODULE:OBJECT`"
_DELETE: Final = "`nats consumer rm {stream} {name}` if none ever will again"


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen of all consumers of a stream: twice, a moment apart, with a roll call between.

    `alone` says that the bus was started for the doctor, so that no agent can run.
    """

    stream: str
    namespace: Namespace
    before: Sequence[ConsumerState]
    after: Sequence[ConsumerState]
    cards: Sequence[AgentCard]
    alone: bool = False

    def earlier(self, name: str) -> ConsumerState | None:
        """Return a consumer as it was at the first look."""
        return next((state for state in self.before if state.name == name), None)

    def in_flight(self, name: str) -> int:
        """Return how many messages the agents say they hold for a consumer."""
        return sum(one.in_flight for card in self.cards for one in card.consumers if one.name == name)

    def serves(self, name: str) -> bool:
        """Say whether any agent answers for a consumer."""
        return any(one.name == name for card in self.cards for one in card.consumers)


def built_in() -> dict[str, tuple[str, ...]]:
    """Return the durable consumers of the agents that come with Motet, and what each must listen to at least."""
    from motet_agents import executor, orchestrator, planner, verifier  # all that checks a draft comes with them

    agents = (orchestrator.agent, planner.agent, verifier.agent, executor.agent)
    return {one.durable: one.filters for agent in agents for one in agent.registrations}


def consumer_findings(look: Look) -> list[Finding]:
    """Judge each consumer."""
    known = built_in()
    return [_judged(look, state, known) for state in look.after]


def _judged(look: Look, state: ConsumerState, known: dict[str, tuple[str, ...]]) -> Finding:
    name = f"consumer {state.name}"
    found = f"{state.pending} waiting, {state.unacknowledged} in work, {state.redelivered} redelivered"
    if not state.durable:
        return _passing(name, found, look, state)
    if changed := _changes(look, state, known.get(state.name, ())):
        advice = f"set it back with `nats consumer edit {look.stream} {state.name}`, then restart its agents"
        return Finding(name=name, status="fail", found=f"somebody changed it: {changed}", advice=advice)
    if state.pause is not None:
        advice = f"its work goes on with `motet resume {state.name}`" if state.waiting else ""
        status: Status = "warn" if state.waiting else "ok"
        return Finding(name=name, status=status, found=f"{found}; {pause_line(state.pause)}", advice=advice)
    if not look.serves(state.name) and state.asking == 0:
        return _unserved(name, found, look, state, leaked=state.name not in known)
    if _stands_still(look, state):
        advice = "its workers are there and take nothing: restart them, and look at their logs"
        return Finding(name=name, status="fail", found=f"{found}; the lag does not move", advice=advice)
    return Finding(name=name, status="ok", found=found)


def _passing(name: str, found: str, look: Look, state: ConsumerState) -> Finding:
    """Judge a consumer that goes away by itself: none of Motet's does, somebody is looking or has left it behind."""
    if state.asking or state.bound:
        return Finding(name=name, status="ok", found=f"{found}; not Motet's: somebody reads along")
    advice = _DELETE.format(stream=look.stream, name=state.name)
    return Finding(name=name, status="warn", found=f"{found}; ephemeral, and nobody reads it", advice=advice)


def _unserved(name: str, found: str, look: Look, state: ConsumerState, *, leaked: bool) -> Finding:
    found = f"{found}; nobody serves it"
    delete = _DELETE.format(stream=look.stream, name=state.name)
    if look.alone:
        advice = "no agent runs on this store: `motet up` starts them" if state.waiting else ""
        return Finding(name=name, status="warn" if state.waiting else "ok", found=found, advice=advice)
    if state.waiting:
        return Finding(name=name, status="fail", found=found, advice=f"{_START}{f'; {delete}' if leaked else ''}")
    if leaked:
        return Finding(name=name, status="warn", found=f"{found}, and no agent of Motet would", advice=delete)
    return Finding(name=name, status="ok", found=found)


def _stands_still(look: Look, state: ConsumerState) -> bool:
    """Say whether messages wait, nobody holds any, and none was delivered or settled between the two looks."""
    earlier = look.earlier(state.name)
    if earlier is None or not earlier.pending or not state.pending or look.in_flight(state.name):
        return False
    return (earlier.delivered, earlier.acknowledged) == (state.delivered, state.acknowledged)


def _changes(look: Look, state: ConsumerState, wanted: Sequence[str]) -> str:
    """Return what is not as Motet needs it; a consumer that is not Motet's own may listen to what it likes."""
    lacking = sorted({look.namespace.wire(name) for name in wanted} - set(state.filters))
    spec = ConsumerSpec(
        stream=look.stream,
        durable=state.name,
        filter_subjects=state.filters,
        max_ack_pending=int(state.config.get("max_ack_pending", 0)),
        ack_wait_s=int(state.config.get("ack_wait", 0)) / 1e9,
    )
    changed = differences(spec.rules(), {**state.config, "filter_subjects": sorted(state.filters)})
    if lacking:
        changed.append(f"filter_subjects: lacks {', '.join(lacking)}")
    return "; ".join(changed)
