"""The human desk from the command line, in words and in JSON, on a bus where questions wait and no agent runs."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from motet_bus import ConnectOptions, open_bus, open_client
from motet_gateway.cli import main
from motet_schemas import EscalateRaised, Fact, Namespace, Task
from motet_schemas.subjects import build
from tests.gateway.recorded import ambiguous

Motet = Callable[..., int]


@pytest.fixture
def motet(nats_url: str, namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`motet` on the session's server, in a namespace of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOTET_NATS_URL", nats_url)
    monkeypatch.setenv("MOTET_NAMESPACE", namespace.name)
    monkeypatch.setenv("MOTET_STORE", str(tmp_path / "store"))
    return lambda *arguments: main(list(arguments))


@pytest.fixture
def ask(nats_url: str, namespace: Namespace) -> Callable[..., None]:
    """Submit a task and ask `count` questions about it."""
    raised = ambiguous().events[-1].data
    assert isinstance(raised, EscalateRaised)

    async def record(conversation: str, count: int) -> None:
        options = ConnectOptions(url=nats_url)
        async with open_client(options, namespace=namespace.name) as client:
            await client.submit(Task(kind="content-qa", input={"draft": "Hi"}), conversation)
        async with open_bus(options, role="orchestrator", name="orchestrator", namespace=namespace.name) as bus:
            for number in range(1, count + 1):
                await bus.journal.append(Fact(build("escalate.raised", conversation, number), raised))

    def ask(conversation: str, count: int = 1) -> None:
        asyncio.run(record(conversation, count))

    return ask


def _answers(motet: Motet, capsys: pytest.CaptureFixture[str], conversation: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert motet("show", conversation, "--json") == 0
    documents = json.loads(capsys.readouterr().out)
    return [one["data"] for one in documents if one["subject"].startswith("escalate.answered.")]


def test_the_inbox_says_what_is_asked_and_how_to_answer(
    motet: Motet, ask: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert motet("inbox") == 0
    assert "nobody is asked anything" in capsys.readouterr().out
    ask("launch", 2)
    assert motet("inbox") == 0
    out = capsys.readouterr().out
    assert "Is it good enough?" in out
    assert "motet answer launch --number 2 --approve --wait" in out
    assert motet("list") == 0
    assert "waiting" in capsys.readouterr().out


def test_revise_carries_instructions_and_a_note(
    motet: Motet, ask: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    ask("revised")
    assert motet("answer", "revised", "--revise", "Be kinder", "--note", "tone", "--by", "ada") == 0
    assert "question 1 answered: revise" in capsys.readouterr().out
    [given] = _answers(motet, capsys, "revised")
    assert (given["decision"], given["instructions"], given["answered_by"]) == ("revise", "Be kinder", "ada")


@pytest.mark.parametrize(
    ("name", "content", "result"),
    [
        ("result.json", '{"links": 3}', {"links": 3}),
        ("result.yaml", "links: 3\n", {"links": 3}),
        ("result.md", "All is well.\n", "All is well.\n"),
    ],
)
def test_a_result_made_by_hand_is_read_from_a_file(
    motet: Motet, ask: Callable[..., None], capsys: pytest.CaptureFixture[str], name: str, content: str, result: Any
) -> None:
    Path(name).write_text(content)
    ask("taken")
    assert motet("answer", "taken", "--take-over", name) == 0
    [given] = _answers(motet, capsys, "taken")
    assert given["result"] == result


def test_a_result_made_by_hand_is_read_from_standard_input(
    motet: Motet, ask: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"by hand")))
    ask("piped")
    assert motet("answer", "piped", "--take-over", "-") == 0
    [given] = _answers(motet, capsys, "piped")
    assert given["result"] == "by hand"


def test_several_questions_must_be_told_apart_or_answered_all(
    motet: Motet, ask: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    ask("many", 3)
    assert motet("answer", "many", "--approve") == 2
    assert "3 questions are open, say which" in capsys.readouterr().err
    assert motet("answer", "many", "--approve", "--number", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["answered"] == [{"number": 2, "decision": "approve"}]
    assert motet("answer", "many", "--approve", "--number", "2") == 2
    assert motet("answer", "many", "--approve", "--all", "--json") == 0
    assert [one["number"] for one in json.loads(capsys.readouterr().out)["answered"]] == [1, 3]
    assert motet("answer", "many", "--approve", "--all") == 2


def test_revise_without_words_is_refused(motet: Motet, ask: Callable[..., None]) -> None:
    ask("mute")
    assert motet("answer", "mute", "--revise", "") == 2


def test_an_empty_bus_lists_nothing(motet: Motet, capsys: pytest.CaptureFixture[str]) -> None:
    assert motet("list") == 0
    assert "no conversations here yet" in capsys.readouterr().out
    assert motet("agents") == 0
    assert "no agent answers" in capsys.readouterr().out
    assert motet("doctor") == 1
    assert "fail     agents: 0 agents answer" in capsys.readouterr().out


def test_a_submission_is_told_once(motet: Motet, capsys: pytest.CaptureFixture[str]) -> None:
    Path("task.yaml").write_text("{kind: content-qa, id: one, input: {text: Hi}, checklist: {links: {}}}")
    assert motet("submit", "task.yaml") == 0
    assert capsys.readouterr().out == "one\n"
    assert motet("submit", "task.yaml") == 0
    assert capsys.readouterr().out == "one (submitted before)\n"
    assert motet("submit", "task.yaml", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"conversation_id": "one", "created": False}
