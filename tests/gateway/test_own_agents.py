"""A user's own agent and playbook, from a folder of their own, without touching Motet."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.gateway.command import Motet

pytestmark = pytest.mark.timeout(120)

AGENT = """
from motet_bus import Agent, Outcome, Step

agent = Agent("greeter")


@agent.step("greet")
async def greet(step: Step) -> Outcome:
    return Outcome.passed(confidence=1.0, notes="Hello, " + str(step.manifest.inputs["name"]))
"""
PLAYBOOK = """
name: greeting
capabilities: [greet]
plan:
  - id: greet
    capability: greet
    goal: Greet somebody
    manifest: {objective: Somebody was greeted}
"""


def test_an_agent_and_a_playbook_of_ones_own_are_run_by_name(tmp_path: Path) -> None:
    motet = Motet(tmp_path)
    (tmp_path / "greetings.py").write_text(AGENT)
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "greeting.yaml").write_text(PLAYBOOK)
    (tmp_path / "task.yaml").write_text("{kind: greeting, id: hello, input: {name: Ada}}")
    assert motet("run", "task.yaml").returncode == 2
    with motet.started("up", "--json", "--playbooks", "books") as up:
        assert up.stdout is not None
        assert json.loads(up.stdout.readline())["agents"]
        with motet.started("agent", "greetings:agent", "--json") as agent:
            assert agent.stdout is not None
            ready = json.loads(agent.stdout.readline())
            assert (ready["ready"], ready["role"], ready["name"]) == (True, "specialist", "greeter")
            document = motet.json("submit", "task.yaml", "--playbooks", "books", "--wait")
            assert document["status"] == "completed"
            assert document["steps"][0]["capability"] == "greet"
            listed = motet.json("agents")
            [card] = [card for card in listed if card["instance"] == ready["instance"]]
            assert card["consumers"][0]["capability"] == "greet"
            agent.send_signal(signal.SIGINT)
            _, err = agent.communicate(timeout=20)
            assert agent.returncode == 0, err
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=30)
        assert up.returncode == 143
