"""`motet dead`: messages that could not be handled, and what to do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from motet_gateway import exits
from motet_gateway.commands.conversations import user_name
from motet_gateway.invocation import Invocation, command

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from motet_bus import Bus
    from motet_bus.letters import KeptLetter, LetterFilter
    from motet_gateway.config import Settings

    Act = Callable[[Bus, KeptLetter], Awaitable[int]]

PANEL: Final = "Operations"

LetterId = Annotated[str, typer.Argument(help="The letter's id, as `motet dead list` shows it.", metavar="LETTER")]
LetterIds = Annotated[
    list[str] | None, typer.Argument(help="The letters' ids; or say which with options.", metavar="[LETTER]...")
]
OfConversation = Annotated[str | None, typer.Option("--conversation", metavar="ID", help="Only of this conversation.")]
OfConsumer = Annotated[str | None, typer.Option("--consumer", metavar="NAME", help="Only of this consumer.")]
OfCode = Annotated[str | None, typer.Option("--code", help="Only with this failure, for example unreadable.")]
OfAgent = Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Only of this agent, or instance.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Died since then: 2h, or 2026-12-01T12:00Z.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Died before then.")]
Rate = Annotated[float, typer.Option("--rate", min=0.01, max=1000, help="How many a second at most.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who does it (default: you).")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Messages that could not be handled: list, show, retry, discard.", no_args_is_help=True)
    command(group, "list", panel=PANEL)(list_letters)
    command(group, "show", panel=PANEL)(show)
    command(group, "retry", panel=PANEL)(retry)
    command(group, "discard", panel=PANEL)(discard)
    app.add_typer(group, name="dead", rich_help_panel=PANEL)


def list_letters(
    invocation: Invocation,
    conversation: OfConversation = None,
    consumer: OfConsumer = None,
    code: OfCode = None,
    agent: OfAgent = None,
    since: Since = None,
    until: Until = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that were retried or discarded.")] = False,
) -> int:
    """List dead letters, oldest first: what died, why, and how often it was tried."""
    from motet_gateway.letters import letter_document, letters_table
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    wanted = Criteria(conversation, consumer, code, agent, since, until).filter(every=every)
    documents = [letter_document(kept) for kept in run_until_done(lambda: _list(settings, wanted))]
    if invocation.json:
        print_json(documents)
    else:
        print_result(letters_table(documents, acted=every))
    return exits.COMPLETED


def show(invocation: Invocation, letter: LetterId) -> int:
    """Show one dead letter whole: cause, stack, headers, payload, and what was done with it."""
    from motet_gateway.letters import whole_letter, whole_letter_document
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    document = whole_letter_document(*run_until_done(lambda: _show(settings, letter)))
    if invocation.json:
        print_json(document)
    else:
        print_result(whole_letter(document))
    return exits.COMPLETED


def retry(
    invocation: Invocation,
    letters: LetterIds = None,
    conversation: OfConversation = None,
    consumer: OfConsumer = None,
    code: OfCode = None,
    agent: OfAgent = None,
    since: Since = None,
    until: Until = None,
    every: Annotated[bool, typer.Option("--all", help="Every letter that nobody has seen to.")] = False,
    rate: Rate = 5.0,
    reason: Annotated[str, typer.Option("--reason", help="Why it may work now, for the record.")] = "",
    by: By = None,
) -> int:
    """Have the consumer that gave up try again: it alone, as soon as it runs. Asking twice is refused.

    Exit status: 0 recorded, 1 when some could not be, 2 bad input, 4 no bus.
    """
    wanted = _chosen(letters, Criteria(conversation, consumer, code, agent, since, until), every=every)
    who = by or user_name()

    async def act(bus: Bus, kept: KeptLetter) -> int:
        from motet_bus import letter_acts

        return await letter_acts.retry(bus, kept, by=who, reason=reason)

    return _act_on(invocation, letters or [], wanted, act, rate, verb="retried")


def discard(
    invocation: Invocation,
    letters: LetterIds = None,
    conversation: OfConversation = None,
    consumer: OfConsumer = None,
    code: OfCode = None,
    agent: OfAgent = None,
    since: Since = None,
    until: Until = None,
    every: Annotated[bool, typer.Option("--all", help="Every letter that nobody has seen to.")] = False,
    rate: Rate = 5.0,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record; must be given.")] = "",
    by: By = None,
) -> int:
    """Give letters up. A step that could not be done still waits for its human; anything else goes on without.

    Exit status: 0 recorded, 1 when some could not be, 2 bad input, 4 no bus.
    """
    if not reason.strip():
        raise typer.BadParameter("say why with --reason: a discarded letter is not looked at again")
    wanted = _chosen(letters, Criteria(conversation, consumer, code, agent, since, until), every=every)
    who = by or user_name()

    async def act(bus: Bus, kept: KeptLetter) -> int:
        from motet_bus import letter_acts

        return await letter_acts.discard(bus, kept, by=who, reason=reason)

    return _act_on(invocation, letters or [], wanted, act, rate, verb="discarded")


class Criteria(NamedTuple):
    """What was said about which letters are meant."""

    conversation: str | None
    consumer: str | None
    code: str | None
    agent: str | None
    since: str | None
    until: str | None

    def filter(self, *, every: bool = False) -> LetterFilter:
        """Return the filter for the open ones among them, or for `every` one. Raises `InvalidInputError`."""
        from datetime import UTC, datetime

        from motet_bus.letters import LetterFilter
        from motet_gateway.times import moment

        now = datetime.now(UTC)
        return LetterFilter(
            conversation=self.conversation,
            consumer=self.consumer,
            code=self.code,
            agent=self.agent,
            since=moment(self.since, "--since", now) if self.since else None,
            until=moment(self.until, "--until", now) if self.until else None,
            statuses=frozenset({"dead", "retried", "discarded"} if every else {"dead"}),
        )


def _chosen(letters: list[str] | None, criteria: Criteria, *, every: bool) -> LetterFilter | None:
    """Return the filter that was given, None for letters named one by one."""
    if sum((bool(letters), any(criteria), every)) != 1:
        raise typer.BadParameter("say which letters: their ids, or options such as --consumer, or --all")
    return None if letters else criteria.filter()


def _act_on(
    invocation: Invocation, letters: list[str], wanted: LetterFilter | None, act: Act, rate: float, *, verb: str
) -> int:
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import note, print_json, print_result

    settings = invocation.settings
    done, refused, unserved = run_until_done(lambda: _carry_out(settings, letters, wanted, act, rate))
    if invocation.json:
        print_json({verb: done, "refused": refused})
    else:
        print_result(f"{len(done)} letter{'' if len(done) == 1 else 's'} {verb}")
        for one in refused:
            note(f"motet: {one['message']}")
        if done and unserved and verb == "retried":
            note("motet: no agent runs here; they are handled as soon as one does (`motet up`)")
    return exits.FAILED if refused else exits.COMPLETED


async def _carry_out(
    settings: Settings, letters: list[str], wanted: LetterFilter | None, act: Act, rate: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], bool]:
    """Act on each letter, at most `rate` a second; return what was recorded, what was refused, and who will hear."""
    import asyncio

    from motet_gateway.operating import operating
    from motet_gateway.places import any_place
    from motet_schemas import ConflictError, InvalidInputError, NotFoundError

    done: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    clock = asyncio.get_running_loop().time
    async with any_place(settings) as place, operating(settings, place, by="dead") as bus:
        kept = await _meant(bus, letters, wanted)
        for one in kept:
            started = clock()
            try:
                done.append({"id": one.id, "conversation": one.conversation, "sequence": await act(bus, one)})
            except (ConflictError, InvalidInputError, NotFoundError) as error:
                if len(letters) == 1:
                    raise
                refused.append({"id": one.id, "code": error.code, "message": error.message})
            if one is not kept[-1]:
                await asyncio.sleep(max(0.0, started + 1 / rate - clock()))
    return done, refused, place.embedded is not None


async def _meant(bus: Bus, letters: list[str], wanted: LetterFilter | None) -> list[KeptLetter]:
    from motet_bus.letters import DeadLetters

    office = DeadLetters(bus)
    if wanted is not None:
        return [kept async for kept in office.find_all(wanted)]
    return [await office.find(one) for one in dict.fromkeys(letters)]


async def _list(settings: Settings, wanted: LetterFilter) -> list[KeptLetter]:
    from motet_gateway.operating import operating
    from motet_gateway.places import any_place

    async with any_place(settings) as place, operating(settings, place, by="dead") as bus:
        return await _meant(bus, [], wanted)


async def _show(settings: Settings, letter: str) -> tuple[KeptLetter, bytes | str]:
    from motet_bus.letters import DeadLetters
    from motet_gateway.operating import operating
    from motet_gateway.places import any_place
    from motet_schemas import InvalidInputError, NotFoundError

    async with any_place(settings) as place, operating(settings, place, by="dead") as bus:
        office = DeadLetters(bus)
        kept = await office.find(letter)
        try:
            return kept, await office.payload(kept)
        except (NotFoundError, InvalidInputError) as error:
            return kept, error.message
