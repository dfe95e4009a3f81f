"""`motet inbox` and `motet answer`: the human desk."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from motet_gateway import exits
from motet_gateway.commands.conversations import ConversationId, user_name
from motet_gateway.commands.run import FailOn, Quiet
from motet_gateway.invocation import Invocation, command

if TYPE_CHECKING:
    from motet_bus import Client
    from motet_gateway.config import Settings
    from motet_schemas import Conversation, HumanAnswer, Question

PANEL: Final = "The human desk"
_RESULT_BYTES: Final = 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "inbox", panel=PANEL)(inbox)
    command(app, "answer", panel=PANEL)(answer)


def inbox(invocation: Invocation) -> int:
    """List what humans are asked, the most urgent first, and how to answer."""
    from motet_gateway.answers import answer_lines
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    waiting = run_until_done(lambda: _inbox(settings))
    documents = [_document(state, question) for state, question in waiting]
    if invocation.json:
        print_json(documents)
    else:
        from motet_gateway.render import inbox as render

        of = Counter(state.id for state, _ in waiting)
        how = [answer_lines(invocation, state.id, question, of[state.id]) for state, question in waiting]
        print_result(render(documents, how))
    return exits.COMPLETED


def answer(
    invocation: Invocation,
    conversation: ConversationId,
    approve: Annotated[bool, typer.Option("--approve", help="Accept it as it is.")] = False,
    revise: Annotated[
        str | None, typer.Option("--revise", metavar="TEXT", help="Have it done again, with these instructions.")
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="Stop here: the task fails.")] = False,
    take_over: Annotated[
        Path | None,
        typer.Option("--take-over", metavar="FILE", help="Give the result yourself: JSON, YAML or text; - is stdin."),
    ] = None,
    number: Annotated[int | None, typer.Option("--number", "-n", min=1, help="Which question, when several.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Answer every open question of the conversation so.")] = False,
    note: Annotated[str, typer.Option("--note", help="Why, for the report.")] = "",
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who answers (default: you).")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Go on until the end, then report as `run` does.")] = False,
    fail_on: FailOn = None,
    quiet: Quiet = False,
) -> int:
    """Answer a question. With --wait the agents run until the conversation ends or asks again.

    Exit status: 0 recorded, 2 bad input, 4 no bus; with --wait as of `run`. 130 after Ctrl-C (128 + the signal).
    """
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    if every and number is not None:
        raise typer.BadParameter("give either --number or --all")
    settings = invocation.settings
    given = _answer_of(approve, revise, reject, take_over, note=note, by=by or user_name())
    answered: list[Question] = []

    async def act(client: Client) -> None:
        answered.extend(await _answer(client, conversation, number, given, every=every))

    if wait:
        from motet_gateway.reporting import Reporter, see_through
        from motet_gateway.session import carry_through

        reporter = Reporter(invocation, fail_on)
        return see_through(
            reporter, lambda: carry_through(settings, conversation, act, reporter, role="desk", quiet=quiet)
        )
    unserved = run_until_done(lambda: _answer_only(settings, act))
    document = {
        "conversation_id": conversation,
        "answered": [{"number": question.number, "decision": given.decision} for question in answered],
    }
    if invocation.json:
        print_json(document)
    else:
        numbers = ", ".join(str(question.number) for question in answered)
        then = f"; `motet watch {conversation}` goes on with it" if unserved else ""
        print_result(f"{conversation}: question {numbers} answered: {given.decision}{then}")
    return exits.COMPLETED


def _answer_of(
    approve: bool, revise: str | None, reject: bool, take_over: Path | None, *, note: str, by: str
) -> HumanAnswer:
    from pydantic import ValidationError

    from motet_schemas import HumanAnswer
    from motet_schemas.validation import explain

    chosen = [approve, revise is not None, reject, take_over is not None]
    if sum(chosen) != 1:
        raise typer.BadParameter("give exactly one of --approve, --revise TEXT, --reject and --take-over FILE")
    decision = ("approve", "revise", "reject", "take_over")[chosen.index(True)]
    fields: dict[str, Any] = {"decision": decision, "answered_by": by, "note": note, "instructions": revise}
    if take_over is not None:
        fields["result"] = _read_result(take_over)
    try:
        return HumanAnswer.model_validate(fields)
    except ValidationError as error:
        raise explain(error, HumanAnswer, "answer") from error


def _read_result(path: Path) -> Any:
    """Return a result made by hand: what JSON or YAML hold, or the text itself."""
    from motet_agents.strict_yaml import read_structured
    from motet_bus.files import read_file

    if str(path) != "-" and path.suffix.lower() in (".json", ".yaml", ".yml"):
        return read_structured(path, "take-over")
    if str(path) != "-":
        return read_file(path, "take-over", max_bytes=_RESULT_BYTES).decode("utf-8", errors="replace")
    data = sys.stdin.buffer.read(_RESULT_BYTES + 1)
    if len(data) > _RESULT_BYTES:
        raise typer.BadParameter("standard input: a result has at most 1 MiB")
    return data.decode("utf-8", errors="replace")


async def _answer(
    client: Client, conversation: str, number: int | None, given: HumanAnswer, *, every: bool
) -> list[Question]:
    from motet_agents import desk
    from motet_schemas.standing import open_questions

    if not every:
        return [await desk.answer(client, conversation, number, given)]
    state = await client.load(conversation)
    numbers = [question.number for question in open_questions(state)]
    if not numbers:
        return [await desk.answer(client, conversation, None, given)]  # says why nothing can be answered
    return [await desk.answer(client, conversation, one, given) for one in numbers]


async def _answer_only(settings: Settings, act: Any) -> bool:
    """Record the answer; say whether nobody will act on it until agents run."""
    from motet_gateway.places import any_place
    from motet_gateway.session import connected

    async with any_place(settings) as place, connected(settings, place, role="desk") as client:
        await act(client)
        return place.embedded is not None


async def _inbox(settings: Settings) -> list[tuple[Conversation, Question]]:
    from motet_agents import desk
    from motet_gateway.places import any_place
    from motet_gateway.session import connected

    async with any_place(settings) as place, connected(settings, place) as client:
        waiting = await desk.inbox(client)
        states = {one: await client.load(one) for one in {question.conversation for question in waiting}}
        return [(states[one.conversation], one.question) for one in waiting]


def _document(state: Conversation, question: Question) -> dict[str, Any]:
    from motet_gateway.documents import question_document

    return {
        "conversation_id": state.id,
        "kind": state.task.kind if state.task else "unreadable",
        "owner": state.task.owner if state.task else None,
        **question_document(state, question),
    }
