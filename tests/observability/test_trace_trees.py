"""One conversation is one tree: one root, no orphan, nothing twice, every service there, whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from motet_bus import root_span_id, trace_id
from tests.gateway.command import EXAMPLES, Motet, Pages, eventually, slow_task
from tests.observability.jaeger import Node, Tree, drawn
from tests.observability.made_up import MadeUp, Said
from tests.observability.receiver import Receiver, otlp_receiver
from tests.observability.tree import fetched

pytestmark = pytest.mark.slow

_EVERYBODY = {"motet-cli", "motet-orchestrator", "motet-planner", "motet-executor", "motet-verifier"}


def check(receiver: Receiver, conversation: str, services: set[str] = _EVERYBODY) -> Tree:
    """Fetch a conversation's trace as Jaeger shows it, and see that it hangs together."""
    tree = fetched(receiver, trace_id(conversation))
    picture = drawn(tree)
    assert [root.span["spanID"] for root in tree.roots] == [root_span_id(conversation)], picture
    assert tree.orphans == [], picture
    assert tree.twice == [], picture
    assert tree.services == services, picture
    assert {span.trace for span in receiver.spans} == {trace_id(conversation)}
    return tree


def named(tree: Tree, name: str, **tags: object) -> list[Node]:
    """Return the nodes of this name that bear these tags (`_` stands for a dot)."""
    wanted = {key.replace("_", "."): value for key, value in tags.items()}
    return [node for node in tree.nodes() if node.name == name and wanted.items() <= node.tags.items()]


@pytest.mark.timeout(90)
def test_a_run_is_one_tree_from_submission_to_report(tmp_path: Path) -> None:
    with otlp_receiver() as receiver:
        motet = Motet(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        result: dict[str, Any] = motet.json("run", EXAMPLES / "flawed" / "task.yaml", "--quiet")
        tree = check(receiver, result["conversation_id"])
    assert result["trace_id"] == trace_id(result["conversation_id"])
    [door], [first] = named(tree, "publish task.submitted"), named(tree, "process task.submitted")
    assert tree.roots[0].children == [door]
    assert door.children == [first]
    assert first.span["startTime"] >= door.span["startTime"]
    [end] = named(tree, "publish task.completed")
    assert end in tree.roots[0].walk()
    [decided] = [node for node in tree.nodes() if end in node.children]
    verdicts = {
        node.span["spanID"] for node in named(tree, "process step.executed") if node.service == "motet-verifier"
    }
    linked = {one["spanID"] for one in decided.span["references"] if one["refType"] == "FOLLOWS_FROM"}
    assert len(linked) == 2, "the end rests on three verdicts: one is the trigger, two are linked"
    assert linked < verdicts
    assert len(named(tree, "invoke_agent executor", motet_outcome="passed")) == 3
    assert "risk-free" not in repr(receiver.spans), "content of the draft must not be part of a trace"


@pytest.mark.timeout(120)
def test_an_answer_from_another_process_hangs_from_the_wait_that_it_ends(tmp_path: Path) -> None:
    with otlp_receiver() as receiver:
        motet = Motet(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        asked: dict[str, Any] = motet.json("run", EXAMPLES / "ambiguous" / "task.yaml", "--quiet", expect=3)
        conversation = asked["conversation_id"]
        motet.json("answer", conversation, "--all", "--approve", "--wait", "--quiet")
        tree = check(receiver, conversation)
    waits, answers = named(tree, "wait_for_human"), named(tree, "publish escalate.answered")
    assert waits
    assert [wait.children for wait in waits] == [[answer] for answer in answers]
    assert {wait.tags["motet.question.decision"] for wait in waits} == {"approve"}
    assert all([node.name for node in answer.children] == ["process escalate.answered"] for answer in answers)


@pytest.mark.chaos
@pytest.mark.timeout(120)
def test_the_tree_of_a_killed_executor_shows_what_it_had_begun_and_who_took_over(tmp_path: Path) -> None:
    with otlp_receiver() as receiver, Pages() as pages:
        motet = Motet(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, MOTET_CLAIM_TTL_S="1")
        task = slow_task(tmp_path, pages, "killed")
        with motet.started("run", task, "--json") as process:
            owner = eventually(lambda: _owner(motet, "killed"), "the link check was claimed")
            [victim] = [agent for agent in motet.json("agents") if agent["instance"] == owner]
            os.kill(victim["pid"], signal.SIGKILL)
            pages.released.set()
            out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        tree = check(receiver, json.loads(out)["conversation_id"])
    handled = named(tree, "process step.ready", motet_step="links")
    again = [node for node in handled if node.tags["motet.deliveries"] > 1]
    assert again
    assert all(node.span["references"][-1]["refType"] == "FOLLOWS_FROM" for node in again)
    assert {node.tags["motet.attempt"] for node in handled} == {1, 2}
    assert len(named(tree, "publish task.completed")) == 1


def _owner(motet: Motet, conversation: str) -> str | None:
    if not (motet.store / "bus.json").exists():
        return None
    shown = motet("show", conversation, "--json")
    documents: list[dict[str, Any]] = json.loads(shown.stdout) if shown.returncode == 0 else []
    claims = [one for one in documents if one["subject"] == f"step.claimed.{conversation}.links.1"]
    return str(claims[0]["data"]["owner"]) if claims else None


def test_a_history_with_a_redelivery_a_replan_and_a_wait_of_hours_is_one_tree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = [
        Said(_s(0), "task.submitted.c.content-qa", "cli"),
        Said(_s(1), "plan.requested.c.1", "orchestrator", 1),
        Said(_s(2), "plan.created.c.1", "planner", 2),
        Said(_s(3), "step.ready.c.a.1.qa", "orchestrator", 3),
        Said(_s(3), "step.ready.c.b.1.qa", "orchestrator", 3),
        Said(_s(35), "step.executed.c.a.1", "executor", 4, deliveries=3),
        Said(_s(5), "step.executed.c.b.1", "executor", 5),
        Said(_s(36), "verify.failed.c.a.1", "verifier", 6),
        Said(_s(6), "verify.passed.c.b.1", "verifier", 7),
        Said(_s(37), "plan.requested.c.2", "orchestrator", 8),
        Said(_s(38), "plan.created.c.2", "planner", 10),
        Said(_s(39), "step.ready.c.d.1.qa", "orchestrator", 11, rests_on=(9,)),
        Said(_s(40), "step.executed.c.d.1", "executor", 12),
        Said(_s(41), "verify.passed.c.d.1", "verifier", 13),
        Said(_s(42), "escalate.raised.c.1", "orchestrator", 14),
        Said(_s(42) + timedelta(hours=26), "escalate.answered.c.1", "cli"),
        Said(_s(43) + timedelta(hours=26), "task.completed.c.content-qa", "orchestrator", 16, rests_on=(9, 14)),
    ]
    with otlp_receiver() as receiver:
        MadeUp(receiver.url, monkeypatch).play(history)
        tree = check(receiver, "c")
    [wait] = named(tree, "wait_for_human")
    assert wait.span["duration"] == timedelta(hours=26) // timedelta(microseconds=1)
    assert [below.name for below in wait.walk()] == [
        "wait_for_human",
        "publish escalate.answered",
        "process escalate.answered",
        "publish task.completed",
    ]
    [third] = named(tree, "process step.ready", motet_step="a")
    assert third.tags["motet.deliveries"] == 3
    assert [node.name for node in third.walk()].count("process plan.created") == 1, "the re-plan hangs from the failure"
    last = wait.children[0].children[0]
    assert sum(one["refType"] == "FOLLOWS_FROM" for one in last.span["references"]) == 2
    assert "26.0 h" in drawn(tree)


def test_replaying_a_history_tells_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    from motet_schemas import fold_all
    from tests.schemas.histories import FOLDER, read

    with otlp_receiver() as receiver:
        MadeUp(receiver.url, monkeypatch).play([Said(_s(0), "task.submitted.c.content-qa", "cli")])
        told = len(receiver.spans)
        for path in FOLDER.glob("*.jsonl"):
            fold_all("c", read(path))
        assert len(receiver.spans) == told


def _s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
