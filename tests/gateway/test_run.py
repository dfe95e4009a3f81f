"""The whole conversation from one command: real server, real agents, real report."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.bus.servers import NatsServer
from tests.gateway.command import EXAMPLES, Motet, Pages, eventually, is_alive, slow_task, subjects_of

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def motet(tmp_path: Path) -> Motet:
    return Motet(tmp_path)


def test_a_clean_draft_is_approved_and_nothing_else_is_on_standard_output(motet: Motet) -> None:
    done = motet("run", EXAMPLES / "clean" / "task.yaml", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], document["report"]["verdict"]) == ("completed", "approved")
    assert document["brain"] == "rule-based"
    assert [step["status"] for step in document["steps"]] == ["done", "done", "done"]
    assert document["report"]["findings"] == []
    assert "plan 1: tone, compliance, links" in done.stderr
    assert not (motet.store / "bus.json").exists()
    assert (motet.store / "logs" / "planner.log").exists()


def test_a_flawed_draft_gets_findings_with_quotes_and_can_fail_a_build(motet: Motet) -> None:
    done = motet("run", EXAMPLES / "flawed" / "task.yaml", "--json", "--quiet", "--fail-on", "changes_needed")
    assert done.returncode == 1
    assert done.stderr == ""
    document = json.loads(done.stdout)
    draft = (EXAMPLES / "flawed" / "autumn-offer.md").read_text()
    findings = document["report"]["findings"]
    assert (document["status"], document["report"]["verdict"]) == ("completed", "changes_needed")
    assert {finding["rule"] for finding in findings} == {
        "tone.banned",
        "tone.preferred",
        "compliance.forbidden",
        "links.anchor",
        "links.broken",
    }
    for finding in findings:
        assert draft[finding["start"] : finding["end"]] == finding["quote"]


def test_an_ambiguous_draft_waits_for_a_human_who_answers(motet: Motet) -> None:
    waiting = motet("run", EXAMPLES / "ambiguous" / "task.yaml")
    assert waiting.returncode == 3, waiting.stderr
    [listed] = motet.json("list")
    conversation = listed["conversation_id"]
    assert (listed["status"], listed["verdict"], listed["questions"]) == ("waiting", "needs_human", 1)
    assert f"motet answer {conversation} --approve --wait" in waiting.stdout
    assert "compliance.near-miss" in waiting.stdout
    [question] = motet.json("inbox")
    assert (question["conversation_id"], question["step"]) == (conversation, "compliance")
    assert motet("answer", conversation, "--number", "7", "--approve").returncode == 2
    answered = motet.json("answer", conversation, "--approve", "--note", "close enough", "--by", "ada", "--wait")
    assert (answered["status"], answered["escalations"][0]["decision"]) == ("completed", "approve")
    assert any("close enough" in concern for concern in answered["report"]["concerns"])
    documents = motet.json("show", conversation)
    assert [document["seq"] for document in documents] == sorted(document["seq"] for document in documents)
    assert f"task.completed.{conversation}.content-qa" in subjects_of(documents)
    again = motet("answer", conversation, "--approve", "--json")
    assert again.returncode == 2
    assert json.loads(again.stdout)["error"]["code"] == "conflict"
    assert motet.json("inbox") == []
    assert "completed" in motet("show", conversation).stdout


def test_an_answer_without_wait_is_acted_on_by_the_next_run(motet: Motet) -> None:
    document = motet.json("run", EXAMPLES / "ambiguous" / "task.yaml", expect=3)
    conversation = document["conversation_id"]
    answered = motet.json("answer", conversation, "--reject", "--note", "no")
    assert answered["answered"] == [{"number": 1, "decision": "reject"}]
    motet.json("run", EXAMPLES / "clean" / "task.yaml")
    statuses = {one["conversation_id"]: one["status"] for one in motet.json("list")}
    assert statuses[conversation] == "failed"
    assert motet("watch", conversation).returncode == 1
    assert motet("watch", "no-such-conversation").returncode == 2


def test_a_waiting_conversation_can_be_cancelled(motet: Motet) -> None:
    conversation = motet.json("run", EXAMPLES / "ambiguous" / "task.yaml", expect=3)["conversation_id"]
    cancelled = motet.json("cancel", conversation, "--reason", "not needed")
    assert cancelled["status"] == "cancelled"
    assert motet("cancel", conversation).returncode == 2
    assert motet("show", "no-such-conversation").returncode == 2


def test_the_same_task_again_is_the_same_conversation_and_another_one_is_refused(motet: Motet) -> None:
    task = {"kind": "content-qa", "id": "once", "input": {"text": "Hi"}, "checklist": {"tone": {"banned": ["bad"]}}}
    (motet.folder / "task.json").write_text(json.dumps(task))
    first = motet.json("run", "task.json")
    again = motet("run", "task.json", "--json")
    assert json.loads(again.stdout) == first
    assert "was submitted before" in again.stderr
    (motet.folder / "task.json").write_text(json.dumps({**task, "input": {"text": "Something else"}}))
    other = motet("run", "task.json", "--json")
    assert other.returncode == 2
    assert "submitted before with other content" in json.loads(other.stdout)["error"]["message"]


def test_a_large_draft_goes_through_the_object_store(motet: Motet) -> None:
    draft = "A plain sentence about tea. " * 2_000 + "\n\nThis is risk-free.\n"
    (motet.folder / "large.txt").write_text(draft)
    task = {
        "kind": "content-qa",
        "input": {"draft": "large.txt"},
        "checklist": {"compliance": {"forbidden": ["risk-free"]}},
    }
    (motet.folder / "task.json").write_text(json.dumps(task))
    done = motet("run", "task.json")
    assert done.returncode == 0, done.stderr
    assert "error   3:9      compliance.forbidden" in done.stdout


@pytest.mark.parametrize(
    "role",
    [
        "orchestrator",
        pytest.param("planner", marks=pytest.mark.chaos),
        "executor",
        pytest.param("verifier", marks=pytest.mark.chaos),
    ],
)
def test_a_run_survives_the_kill_of_any_agent_and_records_every_fact_once(motet: Motet, role: str) -> None:
    with Pages() as pages:
        task = slow_task(motet.folder, pages, f"kill-{role}")
        with motet.started("run", task, "--json") as process:
            claim = eventually(lambda: _claim(motet, f"kill-{role}"), "the link check was claimed")
            agents = motet.json("agents")
            victims = [agent for agent in agents if agent["role"] == role]
            victim = next((agent for agent in victims if agent["instance"] == claim), victims[0])
            os.kill(victim["pid"], signal.SIGKILL)
            pages.released.set()
            out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert document["status"] == "completed"
    subjects = subjects_of(motet.json("show", f"kill-{role}"))
    claims = [subject for subject in subjects if subject.startswith(f"step.claimed.kill-{role}.links.")]
    lost = [subject for subject in subjects if subject.startswith("step.expired.")]
    assert len(claims) == len(lost) + 1
    assert document["usage"]["attempts"] == 2
    assert len([subject for subject in subjects if subject.startswith("task.completed.")]) == 1


def _claim(motet: Motet, conversation: str) -> str | None:
    """Return who has claimed the link check, when a bus runs and somebody has."""
    if not (motet.store / "bus.json").exists():
        return None
    shown = motet("show", conversation, "--json")
    documents: list[dict[str, Any]] = json.loads(shown.stdout) if shown.returncode == 0 else []
    claims = [one for one in documents if one["subject"] == f"step.claimed.{conversation}.links.1"]
    return str(claims[0]["data"]["owner"]) if claims else None


def test_a_run_survives_the_kill_of_its_server(motet: Motet) -> None:
    with Pages() as pages:
        task = slow_task(motet.folder, pages, "no-server")
        with motet.started("run", task, "--json") as process:
            eventually(lambda: _claim(motet, "no-server"), "the link check was claimed")
            os.kill(int((motet.store / "nats" / "server.pid").read_text()), signal.SIGKILL)
            pages.released.set()
            out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["status"] == "completed"
    subjects_of(motet.json("show", "no-server"))


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.chaos),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.chaos),
    ],
)
def test_however_a_run_is_stopped_nothing_is_left_behind(motet: Motet, number: signal.Signals, status: int) -> None:
    with Pages() as pages:
        task = slow_task(motet.folder, pages, "stopped")
        with motet.started("run", task, "--json") as process:
            eventually(lambda: _claim(motet, "stopped"), "the link check was claimed")
            pids = motet.everything()
            assert len(pids) == 6
            assert all(map(is_alive, pids))
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
    assert process.returncode == status
    eventually(lambda: not any(map(is_alive, pids)), "every process has ended", 20)
    if number != signal.SIGKILL:
        assert json.loads(out)["error"]["code"] == "interrupted"
        assert "`motet watch stopped` goes on with it" in err
        assert "Traceback" not in err
        assert not (motet.store / "bus.json").exists()
    assert motet.json("list")[0]["status"] == "running"


def test_an_interrupted_run_goes_on_with_watch(motet: Motet) -> None:
    with Pages() as pages:
        task = slow_task(motet.folder, pages, "resumed")
        with motet.started("run", task) as process:
            eventually(lambda: _claim(motet, "resumed"), "the link check was claimed")
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        pages.released.set()
        document = motet.json("watch", "resumed")
    assert document["status"] == "completed"
    assert document["usage"]["attempts"] == 2
    subjects_of(motet.json("show", "resumed"))


def test_a_hopeless_agent_ends_the_run_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class NoVerifier:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'motet_agents.verifier':\n"
        "            sys.stderr.write('no verifier today\\n')\n"
        "            sys.stderr.flush()\n"
        "            if 'motet_agents.verifier:agent' in sys.argv:\n"
        "                os._exit(2)\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, NoVerifier)\n"
    )
    motet = Motet(tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    done = motet("run", EXAMPLES / "clean" / "task.yaml", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "child_gave_up"
    assert "verifier" in error["message"]
    assert "no verifier today" in error["message"]
    assert not (motet.store / "bus.json").exists()


@pytest.mark.chaos
def test_two_runs_on_one_store_take_turns(motet: Motet) -> None:
    with motet.started("run", EXAMPLES / "clean" / "task.yaml", "--json") as first:
        eventually((motet.store / "bus.json").exists, "the first run announced its bus")
        second = motet("run", EXAMPLES / "clean" / "task.yaml", "--json")
        out, _ = first.communicate(timeout=60)
    assert json.loads(out)["status"] == json.loads(second.stdout)["status"] == "completed"
    assert "waiting until it ends" in second.stderr


def test_up_serves_until_it_is_told_to_stop(motet: Motet) -> None:
    with motet.started("up", "--json", "--executors", "1") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert set(ready) == {"nats_url", "store", "agents"}
        assert urlsplit(str(ready["nats_url"])).password
        assert [agent["role"] for agent in ready["agents"]] == ["orchestrator", "planner", "executor", "verifier"]
        assert all(is_alive(agent["pid"]) for agent in ready["agents"])
        submitted = motet.json("submit", EXAMPLES / "clean" / "task.yaml", "--wait")
        assert submitted["status"] == "completed"
        assert motet.json("run", EXAMPLES / "clean" / "task.yaml")["status"] == "completed"
        agents = motet.json("agents")
        assert {agent["instance"] for agent in agents} == {agent["instance"] for agent in ready["agents"]}
        lag = {consumer["name"]: consumer["pending"] for agent in agents for consumer in agent["consumers"]}
        assert set(lag.values()) == {0}
        diagnosis = motet.json("doctor")
        assert diagnosis["sound"], diagnosis
        second = motet("up", "--json")
        assert second.returncode == 4
        assert "runs on the store" in second.stderr
        pids = motet.everything()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert rest == ""
    eventually(lambda: not any(map(is_alive, pids)), "every process has ended", 20)


def test_a_server_that_is_named_is_used_and_not_stopped(tmp_path: Path, nats_server: NatsServer) -> None:
    motet = Motet(tmp_path, MOTET_NATS_URL=nats_server.url, MOTET_NAMESPACE="cli-team")
    document = motet.json("run", EXAMPLES / "clean" / "task.yaml")
    assert document["status"] == "completed"
    assert not (motet.store / "nats").exists()
    assert [one["conversation_id"] for one in motet.json("list")] == [document["conversation_id"]]
    assert motet.json("agents") == []
    diagnosis = motet.json("doctor", expect=1)
    assert any("none is orchestrator" in finding["found"] for finding in diagnosis["checks"])
