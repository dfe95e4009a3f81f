"""`motet chaos`: the same seed means the same faults, and its verdict can be a bad one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from motet_bus import Client, open_client
from motet_bus.link import Link
from motet_gateway.chaos.dice import ROLES, deck, faults
from motet_gateway.chaos.engine import Plan, Progress, Verdict
from motet_gateway.chaos.load import KIND, Submitted
from motet_gateway.chaos.memory import MemoryLog, resident_mib
from motet_gateway.chaos.oracle import Judgement, judge
from motet_gateway.chaos.proxy import FaultyProxy
from motet_gateway.chaos.verdict import memory_table, progress_line, to_document, to_lines
from motet_gateway.terminal import console
from motet_schemas import Namespace, Task
from motet_schemas.audit import Violation
from tests.bus.support import eventually, options, outsider_writes, stored


def test_the_same_seed_means_the_same_faults_and_another_seed_others() -> None:
    first, again, other = (list(islice(faults(seed), 100)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_role_is_killed_and_frozen_and_the_server_and_the_network_have_their_turn() -> None:
    acts = Counter((fault.act, fault.role) for fault in islice(faults(3), len(deck())))
    for role in ROLES:
        assert acts["kill", role] == 3
        assert acts["freeze", role] >= 1
    for act in ("kill server", "freeze server", "cut", "half-close", "lose answer", "repeat", "delay"):
        assert acts[act, ""] >= 1


def test_thirty_minutes_kill_every_role_at_least_thirty_times() -> None:
    at_s, kills = 0.0, Counter[str]()
    for fault in faults(0):
        at_s += fault.after_s
        if at_s > 30 * 60:
            break
        kills[fault.role] += fault.act == "kill"
    assert all(kills[role] >= 30 for role in ROLES)


async def test_memory_that_grows_is_told_from_memory_that_is_flat() -> None:
    log = MemoryLog()
    kept: list[bytearray] = []
    for at_s in range(30):
        kept.append(bytearray(4 * 1024 * 1024))
        await log.sample(float(at_s), {"grows": os.getpid()})
    [grows] = log.report(warm_after_s=2.0)
    assert grows["flat"] is False
    assert grows["end_mib"] > grows["start_mib"]
    flat = MemoryLog()
    for at_s in range(30):
        await flat.sample(float(at_s), {"flat": os.getpid(), "gone": 2**22 + 1})
    [still] = flat.report(warm_after_s=2.0)
    assert (still["name"], still["flat"]) == ("flat", True)
    assert kept


async def test_memory_is_asked_of_ps_where_there_is_no_proc(tmp_path: Path) -> None:
    told, asked = await resident_mib(os.getpid()), await resident_mib(os.getpid(), proc=tmp_path)
    assert told is not None
    assert asked is not None
    assert abs(told - asked) < 50


async def test_a_proxy_delays_cuts_and_half_closes_and_refuses_when_nobody_listens() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.write(b"the end\n")
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultyProxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        assert proxy.connections == 1
        delaying = asyncio.create_task(proxy.delay(0.2))
        await asyncio.sleep(0)
        writer.write(b"later\n")
        assert await reader.readline() == b"later\n"
        await delaying
        proxy.half_close(5)
        assert await reader.readline() == b"the end\n"
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await eventually(lambda: _connected(proxy, 1))
        assert proxy.cut() == 1
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        server.close()
        await server.wait_closed()
        writer.close()


async def _connected(proxy: FaultyProxy, number: int) -> bool:
    return proxy.connections == number


async def _submitted(client: Client, name: str) -> Submitted:
    submission = await client.submit(Task(kind=KIND), name)
    return Submitted(name, submission.seq, 0.0)


async def test_a_verdict_on_a_stream_that_breaks_promises_is_a_bad_one(
    nats_url: str, link: Link, namespace: Namespace, tmp_path: Path
) -> None:
    async with open_client(options(nats_url), namespace=namespace.name) as client:
        one = await _submitted(client, "c1")
        [first] = await stored(link, namespace)
        await outsider_writes(link, namespace, "task.submitted.c1.chaos", first.body, replace_id(first.headers))
        await outsider_writes(link, namespace, "task.submitted.c2.chaos", first.body, replace_id(first.headers))
        found = await judge(client, [one])
    rules = [violation.rule for violation in found.violations]
    assert rules == ["recorded_twice", "recorded_twice", "hangs", "facts_of_nobody"]
    verdict = replace(held(tmp_path), judgement=found)
    assert not verdict.held
    document = to_document(verdict)
    assert (document["held"], document["violations_in_all"], document["store"]) == (False, 4, str(tmp_path))
    assert any("recorded_twice" in line for line in to_lines(verdict))


def replace_id(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if not name.startswith("Nats-")}


def held(store: Path) -> Verdict:
    return Verdict(
        plan=Plan(seconds=1, seed=1),
        lasted_s=1.0,
        judgement=Judgement(facts=10, statuses=Counter(completed=1)),
        kills={"planner": 1, "server": 2},
        faults={"kill planner": 1, "kill server": 2, "cut": 1},
        answers_lost=1,
        publishes_repeated=1,
        doubles_submitted=1,
        refused={"commit.refused": 1},
        slowest_restart_s=0.5,
        settled_in_s=1.0,
        memory=[{"name": "x", "pid": 1, "since_s": 0.0, "start_mib": 1.0, "warm_mib": None, "middle_mib": 1.0,
                 "end_mib": 1.0, "flat": None}],
        store=store,
    )  # fmt: skip


def test_a_verdict_reads_the_same_for_machines_and_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = held(tmp_path)
    document = json.loads(json.dumps(to_document(verdict)))
    assert document["held"] is True
    assert document["store"] is None
    assert document["kills"] == {"planner": 1, "server": 2}
    text = "\n".join(to_lines(verdict))
    assert "10, each recorded once" in text
    assert "cut 1" in text
    console(sys.stdout).print(memory_table(verdict))
    assert "x" in capsys.readouterr().out


def test_progress_is_told_in_a_line() -> None:
    for phase in ("starting", "storm", "settling", "auditing"):
        assert progress_line(Progress(phase=phase, at_s=1.0))


def test_more_than_a_hundred_violations_are_counted_and_the_first_hundred_shown() -> None:
    found = Judgement()
    found.add([Violation(conversation="c", rule="r", words="w")] * 150)
    assert (found.broken, len(found.violations)) == (150, 100)
