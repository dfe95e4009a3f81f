"""The report at the end of a command that sees a conversation through, and the exit status that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from motet_gateway import exits
from motet_gateway.answers import how_to_answer
from motet_gateway.documents import run_document
from motet_gateway.lifecycle import run_until_done
from motet_gateway.terminal import print_json, print_result
from motet_schemas import Conversation

if TYPE_CHECKING:
    from motet_gateway.invocation import Invocation


class Reporter:
    """Prints the report of a conversation that is over, once; `status` is the exit status from then on."""

    def __init__(self, invocation: Invocation, fail_on: str | None = None) -> None:
        self.status: int | None = None
        self._invocation = invocation
        self._fail_on = fail_on

    def __call__(self, state: Conversation, draft: str | None) -> None:
        """Report `state`; `draft` turns offsets into line and column."""
        self.tell(run_document(state), draft, how_to_answer(self._invocation, state))

    def tell(self, document: dict[str, Any], draft: str | None = None, answers: Sequence[str] = ()) -> None:
        """Report a conversation by its document; `answers` say how to answer what it asks."""
        if self._invocation.json:
            print_json(document)
        else:
            self.show(document, draft, list(answers))
        self.status = self.status_of(document)

    def show(self, document: dict[str, Any], draft: str | None, answers: list[str]) -> None:
        """Print the document for people."""
        from motet_gateway.render import report

        print_result(report(document, draft, answers))

    def status_of(self, document: dict[str, Any]) -> int:
        """Return the exit status that the document stands for."""
        if self._fail_on is not None and document["report"]["verdict"] == self._fail_on:
            return exits.FAILED
        return exits.status_of(document["status"])


class CancelReporter(Reporter):
    """For `motet cancel`: what was asked for is what was reached."""

    def show(self, document: dict[str, Any], draft: str | None, answers: list[str]) -> None:
        """Print one line."""
        print_result(f"{document['conversation_id']}: {document['status']}")

    def status_of(self, document: dict[str, Any]) -> int:
        """Return 0 only for a conversation that was cancelled."""
        return exits.COMPLETED if document["status"] == "cancelled" else exits.FAILED


def see_through(reporter: Reporter, main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run `main`, which reports; return the exit status.

    Raises what `main` raises, and `Interrupted`; a signal that comes after the report changes nothing any more.
    """
    try:
        run_until_done(main)
    except exits.Interrupted:
        if reporter.status is None:
            raise
    return exits.FAILED if reporter.status is None else reporter.status
