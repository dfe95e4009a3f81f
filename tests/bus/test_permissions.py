"""Who may do what on a secured server: every permission comes from the grants, and the server keeps to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from motet_bus import GRANTS, ConnectOptions, Role
from motet_bus.connect import connect
from motet_bus.link import Link
from motet_bus.permissions import API, IMPORTED_API, TRUSTED, Principal, accounts, facts, services
from motet_bus.topology import OBJECTS, ConsumerSpec, apply_streams, conversations_stream, ensure_consumer
from motet_schemas import Namespace, NotAllowedError
from motet_schemas.subjects import KINDS, matches
from tests.bus.secured import ROLES, god_info, options_as, secured_config
from tests.bus.servers import NatsServer, until

SPACE = Namespace("")
STREAM = conversations_stream(SPACE).name
CONSUMERS: dict[Role, tuple[str, ...]] = {
    "orchestrator": ("orchestrator",),
    "planner": ("planner",),
    "executor": ("step-tone", "step-links"),
    "verifier": ("verifier",),
    "specialist": ("step-own",),
}
EVERYBODY = [Principal(name=role, role=role, consumers=CONSUMERS.get(role, ())) for role in ROLES]
BY_ROLE = {principal.role: principal for principal in EVERYBODY}
STRANGERS = [role for role in ROLES if role != "operator"]


def subject_of(kind: str, role: Role, *, own: bool = True) -> str:
    """Return a subject of `kind` as `role` would write it: with its own name, or for its own consumer."""
    if kind == "handled":
        consumer = (CONSUMERS.get(role) or ("somebody",))[0] if own else "somebody-else"
        return f"handled.{consumer}.of-{role}.1"
    details = KINDS[kind]
    count = details if isinstance(details, int) else details[0]
    return ".".join([kind, f"of-{role}", *([role if own else "somebody-else"] * count)])


ALL_KINDS = [*KINDS, "handled"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with the permissions of a real deployment, its streams and consumers."""
    folder = tmp_path_factory.mktemp("secured")
    config = secured_config(folder, EVERYBODY, SPACE)
    with NatsServer(folder, config=config, user_info=god_info(folder), scheme="tls") as started:
        asyncio.run(prepare(started.url))
        yield started


async def prepare(url: str) -> None:
    link = await connect(options_as(url, "god", None))
    await apply_streams(link, SPACE)
    for consumers in CONSUMERS.values():
        for name in consumers:
            spec = ConsumerSpec(stream=STREAM, durable=name, filter_subjects=("task.submitted.>",), max_ack_pending=9)
            await ensure_consumer(link, spec)
    await link.publish_stored("task.submitted.first.demo", b"{}", {"ce-type": "forged"})
    await link.close()


@pytest.fixture
async def god(server: NatsServer) -> AsyncIterator[Link]:
    link = await connect(options_as(server.url, "god", None))
    yield link
    await link.close()


def options_of(server: NatsServer, role: Role) -> ConnectOptions:
    """Return the real credentials of a role; `options_as` would make the operator a god."""
    some = options_as(server.url, role, "client")
    principal = BY_ROLE[role]
    return ConnectOptions(
        url=some.url,
        name=role,
        nkey=Path(server.directory) / f"{role}.nk",
        tls_ca=some.tls_ca,
        inbox_prefix=principal.inbox_prefix,
        api_prefix=principal.api_prefix,
    )


# Derived from the grants


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_may_record_is_what_its_grants_say(role: Role) -> None:
    allowed = facts(BY_ROLE[role], SPACE)
    covered = {kind for kind in ALL_KINDS if any(matches(name, subject_of(kind, role)) for name in allowed)}
    expected = GRANTS[role] if role in CONSUMERS else GRANTS[role] - {"handled"}
    assert covered == expected


@pytest.mark.parametrize("role", ROLES)
def test_nobody_records_for_another_s_consumer(role: Role) -> None:
    allowed = facts(BY_ROLE[role], SPACE)
    assert not any(matches(name, subject_of("handled", role, own=False)) for name in allowed)


def test_an_outsider_may_ask_for_a_stop_in_its_own_name_only() -> None:
    allowed = facts(BY_ROLE["outsider"], SPACE)
    assert any(matches(name, "task.cancel.c1.outsider") for name in allowed)
    assert not any(matches(name, "task.cancel.c1.client") for name in allowed)


@pytest.mark.parametrize("subject", ["alarm.c1.budget", "tick.c1.budget", "timer.fired.c1.budget"])
def test_only_the_orchestrator_sets_alarms_and_nobody_rings_them(subject: str) -> None:
    holders = [
        role for role in STRANGERS if any(matches(one.subject, subject) for one in services(BY_ROLE[role], SPACE))
    ]
    assert holders == (["orchestrator"] if subject.startswith("alarm") else [])


def test_every_other_role_lives_in_an_account_of_its_own_that_imports_what_it_may_publish() -> None:
    made = accounts(EVERYBODY, SPACE, {role: f"U{role}" for role in ROLES})
    assert set(made) == {TRUSTED, *STRANGERS}
    for role in STRANGERS:
        [user] = made[role]["users"]
        imported = {one.get("to") or one["service"]["subject"] for one in made[role]["imports"] if "service" in one}
        told = {one["stream"] for one in made[role]["exports"] if "stream" in one}
        assert set(user["permissions"]["publish"]["allow"]) <= imported | told
        assert "jetstream" not in made[role]


def test_a_namespace_is_in_front_of_everything() -> None:
    for principal in EVERYBODY:
        for name in facts(principal, Namespace("team-a")):
            assert name.startswith("team-a.")
        for service in services(principal, Namespace("team-a")):
            assert "team-a" in service.subject


# Kept by the server


@pytest.mark.parametrize("role", ROLES)
async def test_the_server_stores_every_kind_that_a_role_may_record_and_refuses_all_others(
    server: NatsServer, role: Role
) -> None:
    link = await connect(options_of(server, role))
    accepted: set[str] = set()
    refusals: dict[str, str] = {}
    for kind in ALL_KINDS:
        try:
            await link.publish_stored(subject_of(kind, role), b"{}", {})
        except NotAllowedError as error:
            refusals[subject_of(kind, role)] = error.message
        else:
            accepted.add(kind)
    await link.close()
    assert all(subject in message for subject, message in refusals.items())
    assert accepted == (GRANTS[role] if role in CONSUMERS else GRANTS[role] - {"handled"})


FORBIDDEN_OPERATIONS = [
    "ACCOUNT.PURGE.x",
    "STREAM.CREATE.MINE",
    f"STREAM.UPDATE.{STREAM}",
    f"STREAM.DELETE.{STREAM}",
    f"STREAM.PURGE.{STREAM}",
    f"STREAM.MSG.DELETE.{STREAM}",
    f"STREAM.MSG.GET.{STREAM}",
    f"STREAM.SNAPSHOT.{STREAM}",
    f"STREAM.RESTORE.{STREAM}",
    "STREAM.NAMES",
    "STREAM.LIST",
    "DIRECT.GET.TIMERS",
    f"CONSUMER.CREATE.{STREAM}.mine",
    f"CONSUMER.CREATE.{STREAM}.mine.task.submitted.>",
    f"CONSUMER.DURABLE.CREATE.{STREAM}.mine",
    f"CONSUMER.CREATE.{STREAM}",
    f"CONSUMER.DELETE.{STREAM}.verifier",
    f"CONSUMER.PAUSE.{STREAM}.verifier",
    f"CONSUMER.MSG.NEXT.{STREAM}.somebody-else",
]


@pytest.mark.parametrize("role", STRANGERS)
@pytest.mark.parametrize("prefix", [API, IMPORTED_API])
async def test_nobody_but_the_operator_may_use_the_rest_of_the_api(server: NatsServer, role: Role, prefix: str) -> None:
    others = [name for owner, names in CONSUMERS.items() if owner != role for name in names]
    ops = [*FORBIDDEN_OPERATIONS, *(f"CONSUMER.MSG.NEXT.{STREAM}.{name}" for name in others)]
    link = await connect(options_of(server, role))
    for op in ops:
        with pytest.raises(NotAllowedError):
            await link.request(f"{prefix}.{op}", b"{}", timeout_s=5)
    await link.close()


FORBIDDEN_SUBJECTS = [
    "tick.c1.budget",
    "timer.fired.c1.budget",
    "dead.somebody-else.c1.1",
    f"$JS.ACK.{STREAM}.somebody-else.1.1.1.1.1",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.MOTET.INFO",
    "other.task.submitted.c1.demo",
    "signal.roll-call.x",
]


@pytest.mark.parametrize("role", STRANGERS)
async def test_other_subjects_are_refused_too(server: NatsServer, role: Role) -> None:
    link = await connect(options_of(server, role))
    subjects = [*FORBIDDEN_SUBJECTS]
    if role != "orchestrator":
        subjects += ["alarm.c1.budget", "signal.ended.c1"]
    if role == "outsider":
        subjects += [f"$O.{OBJECTS}.C.x", f"$O.{OBJECTS}.M.x", "task.cancel.c1.client", "signal.roll-call"]
    for subject in subjects:
        with pytest.raises(NotAllowedError):
            await link.request(subject, b"{}", timeout_s=5)
    await link.close()


@pytest.mark.parametrize("role", STRANGERS)
@pytest.mark.parametrize("subject", [">", "_INBOX.>", "_INBOX_god.>", "$JS.EVENT.>", "$SYS.>", "$O.>", "dead.>"])
async def test_nobody_listens_where_he_should_not(server: NatsServer, role: Role, subject: str) -> None:
    async def drop(_: object) -> None:
        """Nothing comes."""

    link = await connect(options_of(server, role))
    denied: list[str] = []
    link.on_denied(denied.append)
    await link.subscribe(subject, drop)
    await until(lambda: denied == [subject])
    await link.close()


async def test_outsiders_and_workers_do_not_hear_the_facts(server: NatsServer) -> None:
    async def drop(_: object) -> None:
        """Nothing comes."""

    for role in ("outsider", "executor", "verifier", "planner", "specialist"):
        link = await connect(options_of(server, role))
        denied: list[str] = []
        link.on_denied(denied.append)
        await link.subscribe("*.*.c1.>", drop)
        await until(lambda denied=denied: denied == ["*.*.c1.>"])  # type: ignore[misc]
        await link.close()


# The confused deputy


def questions(role: Role) -> list[tuple[str, dict[str, Any]]]:
    """Return everything that a role may ask the server and that answers with what is stored, or with JSON."""
    bodies: dict[str, dict[str, Any]] = {
        "DIRECT.GET": {"last_by_subj": "task.submitted.first.demo"},
        "CONSUMER.MSG.NEXT": {"batch": 1, "expires": 50_000_000},
    }
    nothing: dict[str, Any] = {}
    found: list[tuple[str, dict[str, Any]]] = []
    for service in services(BY_ROLE[role], SPACE):
        if service.local.startswith(IMPORTED_API) and "*" not in service.local:
            body = next((body for op, body in bodies.items() if op in service.local), nothing)
            found.append((service.local, body))
            found.append((service.subject, body))
    return found


@pytest.mark.parametrize("role", [role for role in STRANGERS if role != "outsider"])
async def test_an_answer_that_is_sent_to_a_fact_s_subject_is_recorded_nowhere(
    server: NatsServer, god: Link, role: Role
) -> None:
    forbidden = [kind for kind in ALL_KINDS if kind not in GRANTS[role]]
    before = int((await god.api(f"STREAM.INFO.{STREAM}", {}))["state"]["last_seq"])
    link = await connect(options_of(server, role))
    for subject, body in questions(role):
        for kind in forbidden:
            await link.publish(subject, json.dumps(body).encode(), reply=subject_of(kind, role))
        await link.publish(subject, json.dumps(body).encode(), reply="alarm.c1.forged")
        await link.publish(subject, json.dumps(body).encode(), reply=f"$JS.API.STREAM.PURGE.{STREAM}")
        await link.publish(subject, json.dumps(body).encode(), reply=f"{IMPORTED_API}.STREAM.PURGE.{STREAM}")
    # PubAcks, too, go where one says, and no further.
    own = next(kind for kind in ALL_KINDS if kind in GRANTS[role] and kind != "handled")
    for kind in forbidden:
        await link.publish(subject_of(own, role), b"{}", reply=subject_of(kind, role))
    assert (await link.read_last_for(STREAM, "task.submitted.first.demo")) is not None  # all of it has been handled
    await link.close()

    async def quiet() -> bool:
        found = await god.read_batch(STREAM, ">", start_seq=before + 1)
        return len(found) >= len(forbidden)

    await until(quiet)
    found = {message.subject for message in await god.read_batch(STREAM, ">", start_seq=before + 1)}
    assert found == {subject_of(own, role)}
    assert await god.read_last_for("TIMERS", "alarm.>") is None
    assert await god.read_last_for(STREAM, "task.submitted.first.demo") is not None


@pytest.mark.parametrize("op", [f"DIRECT.GET.{STREAM}", f"STREAM.INFO.{STREAM}"])
async def test_in_the_account_of_the_streams_the_server_would_record_its_answer(god: Link, op: str) -> None:
    """Why there are accounts: god, who is in that one, does with a question what no role's permissions allow."""
    body = json.dumps({"last_by_subj": "task.submitted.first.demo"} if "GET" in op else {}).encode()
    target = f"verify.passed.forged.{op.partition('.')[0]}.1"
    await god.publish(god.api_subject(op), body, reply=target)

    async def recorded() -> bool:
        return await god.read_last_for(STREAM, target) is not None

    await until(recorded)
