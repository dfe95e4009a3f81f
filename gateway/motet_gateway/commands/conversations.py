"""`motet submit`, `watch`, `show`, `list` and `cancel`: work with conversations."""

from __future__ import annotations

import getpass
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from motet_gateway import exits
from motet_gateway.commands.run import FailOn, Quiet, Task, read_task
from motet_gateway.invocation import Invocation, Playbooks, command

if TYPE_CHECKING:
    from motet_bus import Client, Summary
    from motet_gateway.config import Settings
    from motet_gateway.reporting import Reporter
    from motet_gateway.taskfile import LoadedTask
    from motet_schemas import Conversation, Event

PANEL: Final = "Conversations"


def _checked_id(given: str) -> str:
    """Return the id when it can be one: nothing is started for one that cannot."""
    from motet_schemas.ids import check_token

    return check_token(given, "conversation")


ConversationId = Annotated[
    str, typer.Argument(help="The conversation's id.", metavar="CONVERSATION", callback=_checked_id)
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "submit", panel=PANEL)(submit)
    command(app, "watch", panel=PANEL)(watch)
    command(app, "show", panel=PANEL)(show)
    command(app, "list", panel=PANEL)(list_conversations)
    command(app, "cancel", panel=PANEL)(cancel)


def user_name() -> str:
    """Return who is at the keyboard."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "operator"


def submit(
    invocation: Invocation,
    task: Task,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, then report as `run` does.")] = False,
    fail_on: FailOn = None,
    quiet: Quiet = False,
    playbooks: Playbooks = None,
) -> int:
    """Submit a task to a bus that runs already. The task's id is its idempotency key."""
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    loaded = read_task(settings, task)
    if wait:
        from motet_gateway.reporting import Reporter, see_through

        reporter = Reporter(invocation, fail_on)
        return see_through(reporter, lambda: _submit_and_wait(settings, loaded, reporter, quiet=quiet))
    created = run_until_done(lambda: _submit(settings, loaded))
    if invocation.json:
        print_json({"conversation_id": loaded.conversation, "created": created})
    else:
        before = "" if created else " (submitted before)"
        print_result(f"{loaded.conversation}{before}")
    return exits.COMPLETED


def watch(invocation: Invocation, conversation: ConversationId, fail_on: FailOn = None, quiet: Quiet = False) -> int:
    """Follow a conversation until it ends or asks a human, then report as `run` does.

    Where no bus runs, the server and the agents run for as long as that takes: so an interrupted `run` goes on.

    Exit status: as of `run`; 130 after Ctrl-C (128 + the signal).
    """
    from motet_gateway.reporting import Reporter, see_through
    from motet_gateway.session import carry_through

    async def look(client: Client) -> None:
        await client.load(conversation)

    settings = invocation.settings
    reporter = Reporter(invocation, fail_on)
    return see_through(reporter, lambda: carry_through(settings, conversation, look, reporter, quiet=quiet))


def show(
    invocation: Invocation,
    conversation: ConversationId,
    archive: Annotated[
        Path | None,
        typer.Option("--archive", metavar="DIR", help="Where archives are that were moved from where they were put."),
    ] = None,
) -> int:
    """Show what is recorded of a conversation, archived or not: every fact in order, and the report."""
    from motet_gateway.answers import how_to_answer
    from motet_gateway.documents import event_documents, run_document
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    if settings.outsider:
        from motet_gateway import outside
        from motet_gateway.reporting import Reporter

        Reporter(invocation).tell(run_until_done(lambda: outside.show(settings, conversation)))
        return exits.COMPLETED
    events, state, draft = run_until_done(lambda: _show(settings, conversation, archive))
    if invocation.json:
        print_json(event_documents(events))
    else:
        from motet_gateway.render import events_table, report

        print_result(events_table(event_documents(events)))
        print_result("")
        print_result(report(run_document(state), draft, how_to_answer(invocation, state)))
    return exits.COMPLETED


def list_conversations(invocation: Invocation) -> int:
    """List all conversations, newest first."""
    from motet_gateway.documents import summary_document
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    documents = [summary_document(summary) for summary in run_until_done(lambda: _list(settings))]
    if invocation.json:
        print_json(documents)
    else:
        from motet_gateway.render import conversations_table

        print_result(conversations_table(documents))
    return exits.COMPLETED


def cancel(
    invocation: Invocation,
    conversation: ConversationId,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the report.")] = "",
    quiet: Quiet = False,
) -> int:
    """Stop a conversation, and wait until it has stopped. Exit status 0 when it was cancelled."""
    from motet_gateway.reporting import CancelReporter, see_through
    from motet_gateway.session import carry_through

    settings = invocation.settings
    by = re.sub(r"[^A-Za-z0-9_-]", "-", user_name())[:64] or "operator"

    async def ask(client: Client) -> None:
        await client.cancel(conversation, by=by, reason=reason)

    async def ask_from_outside() -> None:
        from motet_gateway import outside

        reporter.tell(await outside.cancel(settings, conversation, reason))

    reporter = CancelReporter(invocation)
    if settings.outsider:
        return see_through(reporter, ask_from_outside)
    return see_through(reporter, lambda: carry_through(settings, conversation, ask, reporter, quiet=quiet))


async def _submit(settings: Settings, loaded: LoadedTask) -> bool:
    from motet_gateway import outside
    from motet_gateway.places import running_place
    from motet_gateway.session import connected, submit

    if settings.outsider:
        return await outside.submit(settings, loaded)
    async with running_place(settings, wanted_for="submit") as place, connected(settings, place) as client:
        return (await submit(client, loaded)).created


async def _submit_and_wait(settings: Settings, loaded: LoadedTask, report: Reporter, *, quiet: bool) -> None:
    from motet_gateway import outside
    from motet_gateway.places import running_place
    from motet_gateway.session import connected, follow_shown, submit, warn_if_unserved

    draft = loaded.documents.get("draft")
    if settings.outsider:
        report.tell(await outside.submit_and_wait(settings, loaded), draft.text if draft else None)
        return
    async with running_place(settings, wanted_for="submit") as place, connected(settings, place) as client:
        await submit(client, loaded)
        await warn_if_unserved(client)
        report(await follow_shown(client, loaded.conversation, quiet=quiet), draft.text if draft else None)


async def _show(
    settings: Settings, conversation: str, archive: Path | None
) -> tuple[list[Event], Conversation, str | None]:
    from motet_gateway.places import any_place
    from motet_gateway.session import connected, draft_of
    from motet_gateway.terminal import note
    from motet_schemas import TaskArchived, fold_all

    async with any_place(settings) as place, connected(settings, place) as client:
        events = await client.events(conversation, archive)
        state = fold_all(conversation, events)
        for event in events:
            if isinstance(event.data, TaskArchived):
                note(f"motet: {event.data.count} messages were archived on {event.time:%Y-%m-%d} by {event.data.by}")
        recorded = [event for event in events if event.kind != "task.archived"]  # the same before and after
        return recorded, state, await draft_of(client, state)


async def _list(settings: Settings) -> list[Summary]:
    from motet_gateway.places import any_place
    from motet_gateway.session import connected

    async with any_place(settings) as place, connected(settings, place) as client:
        return await client.conversations()
