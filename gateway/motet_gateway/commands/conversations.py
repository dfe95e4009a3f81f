"""`motet submit`, `watch`, `show`, `list` and `cancel`: work with conversations."""

from __future__ import annotations

import getpass
import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from motet_gateway import exits
from motet_gateway.commands.run import FailOn, Quiet, Task, finish, read_task
from motet_gateway.invocation import Invocation, Playbooks, command

if TYPE_CHECKING:
    from motet_bus import Client, Summary
    from motet_gateway.config import Settings
    from motet_gateway.taskfile import LoadedTask
    from motet_schemas import Conversation, Event

PANEL: Final = "Conversations"

ConversationId = Annotated[str, typer.Argument(help="The conversation's id.", metavar="CONVERSATION")]


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
    created, state = run_until_done(lambda: _submit(settings, loaded, wait=wait, quiet=quiet))
    if state is not None:
        draft = loaded.documents.get("draft")
        return finish(invocation, state, draft.text if draft else None, fail_on)
    if invocation.json:
        print_json({"conversation_id": loaded.conversation, "created": created})
    else:
        before = "" if created else " (submitted before)"
        print_result(f"{loaded.conversation}{before}")
    return exits.COMPLETED


def watch(invocation: Invocation, conversation: ConversationId, fail_on: FailOn = None, quiet: Quiet = False) -> int:
    """Follow a conversation on a running bus until it ends or asks a human, then report as `run` does."""
    from motet_gateway.lifecycle import run_until_done

    settings = invocation.settings
    state, draft = run_until_done(lambda: _watch(settings, conversation, quiet=quiet))
    return finish(invocation, state, draft, fail_on)


def show(invocation: Invocation, conversation: ConversationId) -> int:
    """Show what is recorded of a conversation: every fact in order, and the report."""
    from motet_gateway.answers import how_to_answer
    from motet_gateway.documents import event_documents, run_document
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    events, state, draft = run_until_done(lambda: _show(settings, conversation))
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
    from motet_gateway.documents import run_document
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.session import carry_through
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    by = re.sub(r"[^A-Za-z0-9_-]", "-", user_name())[:64] or "operator"

    async def ask(client: Client) -> None:
        await client.cancel(conversation, by=by, reason=reason)

    def report(state: Conversation, _: str | None) -> int:
        document = run_document(state)
        if invocation.json:
            print_json(document)
        else:
            print_result(f"{conversation}: {document['status']}")
        return exits.COMPLETED if document["status"] == "cancelled" else exits.FAILED

    return run_until_done(lambda: carry_through(settings, conversation, ask, report, quiet=quiet))


async def _submit(
    settings: Settings, loaded: LoadedTask, *, wait: bool, quiet: bool
) -> tuple[bool, Conversation | None]:
    from motet_gateway.places import running_place
    from motet_gateway.session import connected, follow_shown, submit, warn_if_unserved

    async with running_place(settings, wanted_for="submit") as place, connected(settings, place) as client:
        submission = await submit(client, loaded)
        if not wait:
            return submission.created, None
        await warn_if_unserved(client)
        return submission.created, await follow_shown(client, loaded.conversation, quiet=quiet)


async def _watch(settings: Settings, conversation: str, *, quiet: bool) -> tuple[Conversation, str | None]:
    from motet_gateway.documents import is_over
    from motet_gateway.places import any_place
    from motet_gateway.session import connected, draft_of, follow_shown, warn_if_unserved
    from motet_schemas import BusUnavailableError

    async with any_place(settings) as place, connected(settings, place) as client:
        state = await client.load(conversation)
        if not is_over(state):
            if place.embedded is not None:
                raise BusUnavailableError(
                    f"conversation {conversation} has not ended, but no bus runs on the store {place.store}, so "
                    "nobody works on it; start one with `motet up`"
                )
            await warn_if_unserved(client)
            state = await follow_shown(client, conversation, quiet=quiet)
        return state, await draft_of(client, state)


async def _show(settings: Settings, conversation: str) -> tuple[list[Event], Conversation, str | None]:
    from motet_gateway.places import any_place
    from motet_gateway.session import connected, draft_of
    from motet_schemas import fold_all

    async with any_place(settings) as place, connected(settings, place) as client:
        events = await client.events(conversation)
        state = fold_all(conversation, events)
        return events, state, await draft_of(client, state)


async def _list(settings: Settings) -> list[Summary]:
    from motet_gateway.places import any_place
    from motet_gateway.session import connected

    async with any_place(settings) as place, connected(settings, place) as client:
        return await client.conversations()
