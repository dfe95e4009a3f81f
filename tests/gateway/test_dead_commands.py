"""`motet dead`: what died is listed, shown, retried and discarded from the command line, in words and in JSON."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from motet_bus import Agent, ConnectOptions, Context, open_bus
from motet_gateway.cli import main
from motet_gateway.letters import payload_document
from motet_gateway.times import moment
from motet_schemas import DeadLetter, Failure, InvalidInputError, Namespace, PermanentError, TaskSubmitted
from tests.bus.support import SHORT, eventually, is_settled, outsider_writes, running, submit

Run = Callable[..., Any]


@pytest.fixture
def motet(nats_url: str, namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`motet` on the session's server, in a namespace of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOTET_NATS_URL", nats_url)
    monkeypatch.setenv("MOTET_NAMESPACE", namespace.name)
    monkeypatch.setenv("MOTET_STORE", str(tmp_path / "store"))
    return lambda *arguments: main(list(arguments))


@pytest.fixture
def as_json(motet: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run one command with `--json`; return its document. The exit status must be `expect`."""

    def run(*arguments: str, expect: int = 0) -> Any:
        capsys.readouterr()
        assert motet(*arguments, "--json") == expect
        return json.loads(capsys.readouterr().out)

    return run


class Listeners:
    """Two agents that give up on what they are told to, for as long as the context lasts."""

    def __init__(self, url: str, namespace: Namespace) -> None:
        self.url, self.namespace = url, namespace
        self.handled: list[str] = []

    def agent(self, name: str, *, broken: bool) -> Agent:
        agent = Agent(name)

        @agent.on("task.submitted", name=name)
        async def handle(event: TaskSubmitted, context: Context) -> None:
            if broken:
                raise PermanentError(f"{name} is out of order")
            self.handled.append(f"{name} {context.conversation}")

        return agent

    def give_up(self, *conversations: str) -> None:
        """Have both give up on these conversations."""
        asyncio.run(self._run(conversations, broken=True))

    def recover(self) -> None:
        """Have both work on what waits for them."""
        asyncio.run(self._run((), broken=False))

    async def _run(self, conversations: tuple[str, ...], *, broken: bool) -> None:
        one, two = (self.agent(name, broken=broken) for name in ("one", "two"))
        space = self.namespace
        async with (
            open_bus(ConnectOptions(url=self.url), role="client", name="client", namespace=space.name) as bus,
            running(one, self.url, space, SHORT),
            running(two, self.url, space, SHORT),
        ):
            for conversation in conversations:
                await submit(bus, conversation)
            for name in ("one", "two"):
                await eventually(lambda name=name: is_settled(bus.link, space, name))  # type: ignore[misc]


@pytest.fixture
def listeners(nats_url: str, namespace: Namespace) -> Listeners:
    return Listeners(nats_url, namespace)


def write(url: str, namespace: Namespace, *letters: tuple[str, bytes], outside: bytes | None = None) -> None:
    """Put letters into the stream as they are, and a message of no conversation into the other."""

    async def work() -> None:
        async with open_bus(ConnectOptions(url=url), role="client", name="client", namespace=namespace.name) as bus:
            for subject, body in letters:
                await bus.link.publish_stored(namespace.wire(subject), body, {})
            if outside is not None:
                await outsider_writes(bus.link, namespace, "task.submitted.none", outside)

    asyncio.run(work())


def test_letters_are_listed_with_cause_and_tries(
    motet: Callable[..., int], as_json: Run, listeners: Listeners, capsys: pytest.CaptureFixture[str]
) -> None:
    assert as_json("dead", "list") == []
    listeners.give_up("launch", "spring")
    found = as_json("dead", "list")
    assert {(one["conversation"], one["consumer"]) for one in found} == {
        (conversation, name) for conversation in ("launch", "spring") for name in ("one", "two")
    }
    one = found[0]
    assert (one["status"], one["tries"], one["acted"]) == ("dead", 1, None)
    assert one["failure"]["message"] == f"{one['consumer']} is out of order"
    assert one["agent"] == one["consumer"]
    assert one["instance"].startswith(one["agent"])
    assert one["subject"] == f"task.submitted.{one['conversation']}.content-qa"
    assert one["version"]
    assert datetime.fromisoformat(one["first_failed_at"]).tzinfo is not None
    assert [one["consumer"] for one in as_json("dead", "list", "--consumer", "two")] == ["two", "two"]
    assert len(as_json("dead", "list", "--conversation", "launch", "--agent", "one", "--code", "permanent")) == 1
    assert as_json("dead", "list", "--until", "1h") == []
    assert len(as_json("dead", "list", "--since", "1h")) == 4
    capsys.readouterr()
    assert motet("dead", "list") == 0
    out = capsys.readouterr().out
    assert found[0]["id"] in out
    assert "out of order" in out


def test_a_letter_is_shown_whole(
    motet: Callable[..., int], as_json: Run, listeners: Listeners, capsys: pytest.CaptureFixture[str]
) -> None:
    listeners.give_up("launch")
    letter = as_json("dead", "list", "--consumer", "one")[0]["id"]
    shown = as_json("dead", "show", letter)
    assert shown["payload"]["encoding"] == "json"
    assert shown["payload"]["data"]["kind"] == "content-qa"
    assert shown["headers"]["ce-type"] == "motet.task.submitted.v1"
    assert "out of order" in shown["stack"]
    capsys.readouterr()
    assert motet("dead", "show", letter) == 0
    out = capsys.readouterr().out
    for part in (letter, "permanent", "Headers", "Payload", '"kind": "content-qa"', "Stack", "handle"):
        assert part in out
    assert motet("dead", "show", "one-999") == 2
    assert f"did you mean {letter}" in capsys.readouterr().err


def test_a_letter_is_retried_once_and_who_did_it_is_told(
    motet: Callable[..., int], as_json: Run, listeners: Listeners, capsys: pytest.CaptureFixture[str]
) -> None:
    listeners.give_up("launch")
    letter = as_json("dead", "list", "--consumer", "one")[0]["id"]
    done = as_json("dead", "retry", letter, "--by", "ann", "--reason", "repaired")
    assert [one["id"] for one in done["retried"]] == [letter]
    assert done["refused"] == []
    listeners.recover()
    assert listeners.handled == ["one launch"], "only the consumer that had failed hears of it"
    capsys.readouterr()
    assert motet("dead", "retry", letter) == 2
    assert f"letter {letter} was retried by ann at " in capsys.readouterr().err
    assert motet("dead", "discard", letter, "--reason", "old") == 2
    assert [one["consumer"] for one in as_json("dead", "list")] == ["two"]
    acted = {one["id"]: one["acted"] for one in as_json("dead", "list", "--all")}[letter]
    assert (acted["by"], acted["reason"]) == ("ann", "repaired")
    assert motet("dead", "list", "--all") == 0
    assert "retried by ann" in capsys.readouterr().out
    subjects = [one["subject"] for one in as_json("show", "launch")]
    assert f"letter.retried.launch.one.{letter.removeprefix('one-')}" in subjects


def test_many_are_retried_at_the_rate_that_is_asked_for(as_json: Run, listeners: Listeners) -> None:
    listeners.give_up(*(f"c{number}" for number in range(4)))
    loop_started = datetime.now(UTC)
    done = as_json("dead", "retry", "--consumer", "two", "--rate", "10")
    assert len(done["retried"]) == 4
    assert (datetime.now(UTC) - loop_started).total_seconds() >= 0.3, "three pauses of a tenth of a second"
    listeners.recover()
    assert sorted(listeners.handled) == [f"two c{number}" for number in range(4)]
    assert {one["consumer"] for one in as_json("dead", "list")} == {"one"}
    assert as_json("dead", "retry", "--consumer", "two") == {"retried": [], "refused": []}


def test_a_letter_is_discarded_for_a_reason(
    motet: Callable[..., int], as_json: Run, listeners: Listeners, capsys: pytest.CaptureFixture[str]
) -> None:
    listeners.give_up("launch")
    assert motet("dead", "discard", "--all") == 2
    assert "--reason" in capsys.readouterr().err
    assert motet("dead", "discard", "--all", "--reason", "  ") == 2
    [letter, _] = [one["id"] for one in as_json("dead", "list")]
    for arguments in (("--reason", "x" * 2_001), ("--reason", "x", "--by", "y" * 201)):
        assert motet("dead", "discard", letter, *arguments) == 2
        assert motet("dead", "retry", letter, *arguments) == 2
    assert len(as_json("dead", "discard", "--all", "--reason", "a test", "--rate", "100")["discarded"]) == 2
    assert as_json("dead", "list") == []
    assert {one["status"] for one in as_json("dead", "list", "--all")} == {"discarded"}
    listeners.recover()
    assert listeners.handled == []


def test_which_letters_are_meant_must_be_said(motet: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("one-1", "--all"), ("--all", "--consumer", "one"), ("one-1", "--code", "x")):
        assert motet("dead", "retry", *arguments) == 2
        assert "say which letters" in capsys.readouterr().err
    assert motet("dead", "list", "--since", "yesterday") == 2
    assert "--since: 'yesterday' is neither" in capsys.readouterr().err


def test_a_message_of_no_conversation_is_listed_and_can_be_discarded(
    motet: Callable[..., int],
    as_json: Run,
    listeners: Listeners,
    nats_url: str,
    namespace: Namespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(nats_url, namespace, outside=b"\xff\x00")
    listeners.give_up()
    found = as_json("dead", "list")
    assert {(one["conversation"], one["failure"]["code"]) for one in found} == {(None, "unreadable")}
    shown = as_json("dead", "show", found[0]["id"])
    assert shown["payload"] == {"encoding": "base64", "bytes": 2, "data": base64.b64encode(b"\xff\x00").decode()}
    capsys.readouterr()
    assert motet("dead", "retry", found[0]["id"]) == 2
    assert "no event of a conversation" in capsys.readouterr().err
    refused = as_json("dead", "retry", "--all", "--rate", "100", expect=1)
    assert [one["code"] for one in refused["refused"]] == ["invalid_input", "invalid_input"]
    as_json("dead", "discard", "--all", "--reason", "a typo of somebody", "--rate", "100")
    assert as_json("dead", "list") == []
    assert as_json("list") == []


def test_a_payload_that_is_gone_is_said_to_be_gone(as_json: Run, nats_url: str, namespace: Namespace) -> None:
    reference = {"name": "ab" * 32, "sha256": "ab" * 32, "bytes": 5, "media_type": "application/json"}
    letter = DeadLetter(
        consumer="learn",
        subject="task.submitted.c1.x",
        sequence=3,
        deliveries=5,
        failure=Failure(code="exception", message="m\x1b[31m"),
        headers={"motet-body-ref": "1", "odd": "a\x1bb"},
        body=base64.b64encode(json.dumps(reference).encode()).decode(),
        stored_at=datetime.now(UTC),
    )
    write(nats_url, namespace, ("dead.learn.c1.3", letter.to_json()))
    assert as_json("dead", "show", "learn-3")["payload"].keys() == {"missing"}


def test_what_others_wrote_cannot_command_the_terminal(
    motet: Callable[..., int], nats_url: str, namespace: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = DeadLetter(
        consumer="learn",
        subject="task.submitted.c1.x",
        sequence=3,
        deliveries=5,
        failure=Failure(code="exception", message="m\x1b[31m", type="E\x1b"),
        headers={"odd\x1b": "a\x1bb"},
        body=base64.b64encode(b"pay\x1bload").decode(),
        stack="stack\x1b",
        stored_at=datetime.now(UTC),
    )
    write(nats_url, namespace, ("dead.learn.c1.3", letter.to_json()))
    assert motet("dead", "list") == 0
    assert motet("dead", "show", "learn-3") == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (b'{"a": [1]}', {"encoding": "json", "bytes": 10, "data": {"a": [1]}}),
        (b"hello", {"encoding": "text", "bytes": 5, "data": "hello"}),
        (b"NaN", {"encoding": "text", "bytes": 3, "data": "NaN"}),
        (b"", {"encoding": "text", "bytes": 0, "data": ""}),
        (b"\xff", {"encoding": "base64", "bytes": 1, "data": "/w=="}),
        (b"[" * 100_000, {"encoding": "text", "bytes": 100_000, "data": "[" * 100_000}),
    ],
    ids=["json", "text", "nan", "empty", "bytes", "deep"],
)
def test_a_payload_is_shown_as_what_it_is(body: bytes, document: dict[str, Any]) -> None:
    assert payload_document(body) == document


def test_moments_are_read_as_people_write_them() -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert moment("2h", "--since", now) == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert moment("2h", "--for", now, ahead=True) == datetime(2026, 11, 21, 14, tzinfo=UTC)
    assert moment("2026-12-01T12:00Z", "--since", now) == datetime(2026, 12, 1, 12, tzinfo=UTC)
    assert moment("2026-12-01", "--since", now) == datetime(2026, 12, 1, tzinfo=UTC)
    for text in ("", "soon", "-1h", "999999w", "2026-13-01"):
        with pytest.raises(InvalidInputError, match="--since"):
            moment(text, "--since", now)
