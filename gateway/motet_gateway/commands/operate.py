"""`motet pause`, `resume` and `drain`: hold a kind of work back, and let agents go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from motet_gateway import exits
from motet_gateway.commands.conversations import user_name
from motet_gateway.invocation import Invocation, command

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from motet_bus import AgentCard, Bus
    from motet_bus.pausing import Pause
    from motet_bus.presence import DrainOrder
    from motet_gateway.config import Settings

PANEL: Final = "Operations"
_LOOK_S: Final = 0.5

Work = Annotated[str, typer.Argument(help="A capability, or a consumer as `motet agents` shows it.", metavar="WORK")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who does it (default: you).")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "pause", panel=PANEL)(pause)
    command(app, "resume", panel=PANEL)(resume)
    command(app, "drain", panel=PANEL)(drain)


def pause(
    invocation: Invocation,
    work: Work,
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever finds it paused; must be given.")] = "",
    for_: Annotated[str | None, typer.Option("--for", metavar="TIME", help="For how long: 30m, 2h, 1d.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Until when: 2026-12-01T12:00Z.")] = None,
    by: By = None,
) -> int:
    """Hold a kind of work back: the server hands out none of it until `motet resume`, or the time is over.

    What was handed out is finished. Time budgets go on, and a human may be asked for more.
    """
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.operating import pause_line
    from motet_gateway.terminal import print_json, print_result

    if not reason.strip():
        raise typer.BadParameter("say why with --reason: somebody will wonder why nothing happens")
    if for_ is not None and until is not None:
        raise typer.BadParameter("give either --for or --until")
    span, end = _end(for_, until)
    settings, who = invocation.settings, by or user_name()
    made = run_until_done(lambda: _pause(settings, work, who, reason, span, end))
    if invocation.json:
        from motet_gateway.operating import pause_document

        print_json({"consumer": made.consumer, "paused": pause_document(made)})
    else:
        print_result(pause_line(made))
    return exits.COMPLETED


def resume(invocation: Invocation, work: Work, by: By = None) -> int:
    """Let a kind of work go on at once."""
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings, who = invocation.settings, by or user_name()
    consumer, was = run_until_done(lambda: _resume(settings, work, who))
    if invocation.json:
        print_json({"consumer": consumer, "resumed": was is not None})
    else:
        print_result(f"{consumer} goes on" if was is not None else f"{consumer} was not paused")
    return exits.COMPLETED


def drain(
    invocation: Invocation,
    who: Annotated[str, typer.Argument(help="An instance, a role, or an agent's name.", metavar="INSTANCE|ROLE")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they are gone.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", metavar="TIME", help="How long to wait at most.")] = "15m",
    reason: Annotated[str, typer.Option("--reason", help="Why, for the agents' logs.")] = "",
    by: By = None,
) -> int:
    """Have agents take nothing new, finish what they hold, and end. `motet up` does not start them again.

    Exit status: 0 they drain (with --wait: they are gone), 1 some were still at work, 2 unknown, 4 no bus or no answer.
    """
    from pydantic import ValidationError

    from motet_bus.presence import DrainOrder
    from motet_gateway.archiving import parse_span
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import note, print_json, print_result
    from motet_schemas.validation import explain

    try:
        order = DrainOrder(by=by or user_name(), reason=reason)
    except ValidationError as error:
        raise explain(error, DrainOrder, "drain") from error
    settings = invocation.settings
    within_s = parse_span(timeout, "--timeout").total_seconds() if wait else None
    cards, unserved, left = run_until_done(lambda: _drain(settings, who, order, within_s))
    if invocation.json:
        print_json({"draining": [_leaving(card) for card in cards], "unserved": unserved, "left": left})
    else:
        for card in cards:
            print_result(f"{card.instance} drains: {card.in_flight} in flight; its supervisor does not start it again")
    for name in unserved:
        note(f"motet: nobody serves {name} any more; its work waits until somebody does")
    for instance in left or ():
        note(f"motet: {instance} is still at work after {timeout}")
    return exits.FAILED if left else exits.COMPLETED


def _end(for_: str | None, until: str | None) -> tuple[timedelta | None, datetime | None]:
    from datetime import UTC, datetime

    from motet_gateway.archiving import parse_span
    from motet_gateway.times import moment

    span = None if for_ is None else parse_span(for_, "--for")
    return span, None if until is None else moment(until, "--until", datetime.now(UTC), ahead=True)


async def _pause(
    settings: Settings, work: str, by: str, reason: str, span: timedelta | None, end: datetime | None
) -> Pause:
    from motet_bus import pausing
    from motet_gateway.operating import operating
    from motet_gateway.places import any_place

    async with any_place(settings) as place, operating(settings, place, by="pause") as bus:
        return await pausing.pause(bus, await _consumer(bus, work), by=by, reason=reason, for_=span, until=end)


async def _resume(settings: Settings, work: str, by: str) -> tuple[str, Pause | None]:
    from motet_bus import pausing
    from motet_gateway.operating import operating
    from motet_gateway.places import any_place

    async with any_place(settings) as place, operating(settings, place, by="resume") as bus:
        consumer = await _consumer(bus, work)
        return consumer, await pausing.resume(bus, consumer, by=by)


async def _consumer(bus: Bus, work: str) -> str:
    """Return the durable consumer that a capability or a consumer's name means."""
    from motet_gateway.consumers import consumer_states
    from motet_gateway.operating import nearest
    from motet_schemas import NotFoundError

    prefix = "step-"
    names = {state.name for state in await consumer_states(bus.link, bus.namespace)}
    found = next((name for name in (work, f"{prefix}{work}") if name in names), None)
    if found is None:
        known = {name.removeprefix(prefix) for name in names}
        raise NotFoundError(f"there is no work called {work!r} here{nearest(work, known)}")
    return found


async def _drain(
    settings: Settings, who: str, order: DrainOrder, within_s: float | None
) -> tuple[list[AgentCard], list[str], list[str] | None]:
    """Tell who is meant to leave; return their cards, what nobody serves then, and who is left after the wait."""
    from motet_bus.presence import ask_to_drain, roll_call
    from motet_gateway.operating import nearest, operating
    from motet_gateway.places import running_place
    from motet_schemas import NotFoundError

    async with (
        running_place(settings, wanted_for="`motet drain`") as place,
        operating(settings, place, by="drain") as bus,
    ):
        cards = await roll_call(bus.link, bus.namespace)
        meant = [card for card in cards if who in (card.instance, card.role, card.name)]
        if not meant:
            known = {name for card in cards for name in (card.instance, card.role)}
            raise NotFoundError(f"no agent {who!r} answers here{nearest(who, known)}")
        leaving = [await ask_to_drain(bus.link, bus.namespace, card.instance, order) for card in meant]
        gone = {card.instance for card in (*leaving, *(card for card in cards if card.draining))}
        served = {one.name for card in cards if card.instance not in gone for one in card.consumers}
        unserved = sorted({one.name for card in leaving for one in card.consumers} - served)
        left = None if within_s is None else await _wait(bus, {card.instance for card in leaving}, within_s)
        return leaving, unserved, left


async def _wait(bus: Bus, instances: set[str], within_s: float) -> list[str]:
    """Wait until these instances are gone; return those that are not after `within_s` seconds."""
    import asyncio

    from motet_bus.presence import roll_call

    clock = asyncio.get_running_loop().time
    give_up = clock() + within_s
    while True:
        answering = {card.instance for card in await roll_call(bus.link, bus.namespace, for_s=_LOOK_S)}
        left = sorted(instances & answering)
        if not left or clock() > give_up:
            return left


def _leaving(card: AgentCard) -> dict[str, Any]:
    return {"instance": card.instance, "role": card.role, "pid": card.pid, "in_flight": card.in_flight}
