"""`motet archive`: finished conversations leave the stream, and can still be shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from motet_gateway import exits
from motet_gateway.commands.conversations import user_name
from motet_gateway.invocation import Invocation, command

if TYPE_CHECKING:
    from motet_gateway.archiving import Order, Tally
    from motet_gateway.config import Settings

PANEL: Final = "Conversations"
_TELL_S: Final = 2.0


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "archive", panel=PANEL)(archive)


def archive(
    invocation: Invocation,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="How long ago they ended at least: 30d, 12h, 0s.")
    ] = "30d",
    conversation: Annotated[
        list[str] | None, typer.Option("--conversation", metavar="ID", help="Only this one; may be given repeatedly.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="A folder for the archives; else the object store.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be archived, and do nothing.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Archive at most so many.")] = None,
) -> int:
    """Take finished conversations out of the stream. `show` and `list` still find them. Safe to stop and repeat."""
    from motet_gateway.archiving import NOTHING_LEFT, Order, Tally, parse_span
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import note, print_json, print_result

    span = parse_span(older_than, "--older-than")
    order = Order(older_than=span, conversations=tuple(conversation or ()), limit=limit, dry_run=dry_run)
    folder = None if to is None else to.expanduser().absolute()
    tally = Tally(dry_run=dry_run, to="object store" if folder is None else str(folder))
    settings = invocation.settings
    try:
        run_until_done(lambda: _archive(settings, order, folder, tally))
    except exits.Interrupted:
        note(f"motet: {_line(tally)}; stopped, and what was under way is finished by the next run")
        raise
    if invocation.json:
        print_json(tally.to_document())
    else:
        print_result(_line(tally))
    for one, why in {**tally.skipped, **tally.failed}.items():
        note(f"motet: {one} stays: {why}")
    if tally.awaited:
        note(
            f"motet: {tally.awaited} stay, because not all of their events have reached {', '.join(tally.awaited_by)}: "
            "start the agent that serves it, or delete the consumer if none does any more (`motet doctor` tells)"
        )
    if tally.unsettled:
        note(f"motet: {tally.unsettled} stay, because nobody has settled their dead letters: see `motet dead list`")
    refused = tally.failed or any(why != NOTHING_LEFT for why in tally.skipped.values())
    return exits.FAILED if refused else exits.COMPLETED


def _line(tally: Tally) -> str:
    done = f"{len(tally.conversations):,} of {tally.looked_at:,} conversations"
    if tally.dry_run:
        return f"{done} would leave the stream, with {tally.messages:,} messages"
    return f"{done} archived in the {tally.to}: {tally.messages:,} messages, {tally.archive_bytes:,} bytes compressed"


async def _archive(settings: Settings, order: Order, folder: Path | None, tally: Tally) -> None:
    import asyncio

    from motet_bus import open_bus
    from motet_bus.archiver import Archiver
    from motet_gateway.archiving import archive_all
    from motet_gateway.places import any_place
    from motet_gateway.terminal import note

    clock = asyncio.get_running_loop().time
    told = clock()

    def tell(tally: Tally) -> None:
        nonlocal told
        if clock() - told >= _TELL_S:
            told = clock()
            note(f"motet: {_line(tally)}")

    async with any_place(settings) as place:
        options = settings.connect_options(place.url, "motet-archive")
        async with open_bus(options, role="operator", name="archive", namespace=settings.namespace) as bus:
            await archive_all(bus, Archiver(bus, by=user_name(), folder=folder), order, tally, tell)
