"""Finished conversations leave the stream; whatever happens meanwhile, nothing that was recorded is lost."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet_bus import Bus, Client
from motet_bus.answers import StoredMessage
from motet_bus.archive_format import Archived, ArchiveError, ArchiveWriter, read_archive, references_in
from motet_bus.archiver import Archiver
from motet_bus.archives import Archives, FolderError
from motet_bus.link import Link
from motet_schemas import (
    ConflictError,
    Fact,
    LetterDiscarded,
    Namespace,
    NotAllowedError,
    Reference,
    Task,
    TaskArchived,
    TimerSet,
    Unreadable,
    VerifyPassed,
    encode,
)
from motet_schemas.envelope import BODY_REFERENCE
from motet_schemas.subjects import build, conversation_filter
from tests.bus.recorded_conversations import finished, kinds_of, now, running, shown, waiting, write
from tests.bus.servers import NatsServer, publish_raw, raw_message
from tests.bus.support import bus_as, kinds, new_conversation, outsider_writes, stored
from tests.gateway.recorded import START, Recorded

pytestmark = pytest.mark.slow

POINTS = (
    "after the archive",
    "after reading it back",
    "after the fact",
    "between purges",
    "between purges*2",
    "between purges*3",
)
LAST_PURGE = "between purges*3"
HEADER = {"format": "motet-archive", "version": 1, "conversation": "c", "count": 0, "letters": 0, "objects": 0}
KEPT = ["task.submitted", "task.completed", "task.archived"]


@pytest.fixture
async def bus(nats_url: str, namespace: Namespace) -> AsyncIterator[Bus]:
    """An operator's place on the bus."""
    async with bus_as(nats_url, namespace, "operator") as opened:
        yield opened


@pytest.fixture
def conversation() -> str:
    return new_conversation()


@pytest.fixture(params=["object store", "folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where archives go: both places must do."""
    return tmp_path / "archives" if request.param == "folder" else None


def an_archiver(bus: Bus, folder: Path | None = None) -> Archiver:
    return Archiver(bus, by="ann", folder=folder)


async def test_what_was_archived_is_shown_as_before_and_only_tombstones_stay(
    bus: Bus, conversation: str, folder: Path | None
) -> None:
    client = Client(bus)
    await write(bus.link, bus.namespace, finished(conversation), running("other"))
    before, state = await shown(client, conversation), await client.load(conversation)
    outcome = await an_archiver(bus, folder).archive(conversation, now())
    assert (outcome.status, outcome.messages) == ("archived", len(before) - 2)
    assert await kinds(bus, conversation) == KEPT
    assert await shown(client, conversation) == before
    archived = await client.load(conversation)
    assert (archived.questions, archived.attempts, archived.ending) == (state.questions, state.attempts, state.ending)
    assert kinds_of(await client.events("other")) == kinds_of(running("other").events)
    listed = {one.conversation: (one.status, one.archived) for one in await client.conversations()}
    assert listed == {conversation: ("completed", True), "other": ("running", False)}


async def test_the_fact_says_who_archived_what_and_where(bus: Bus, conversation: str, tmp_path: Path) -> None:
    await write(bus.link, bus.namespace, finished(conversation))
    messages = await stored(bus.link, bus.namespace, conversation_filter(conversation))
    await an_archiver(bus, tmp_path / "new" / "folder").archive(conversation, now())
    fact = (await bus.journal.read_kind(f"task.archived.{conversation}.>"))[0].data
    assert isinstance(fact, TaskArchived)
    assert (fact.by, fact.folder) == ("ann", str(tmp_path / "new" / "folder"))
    assert (fact.first_seq, fact.last_seq, fact.count) == (messages[0].seq, messages[-1].seq, len(messages))
    [file] = files_in(tmp_path / "new" / "folder")
    assert file.name == f"{conversation}.{fact.reference.sha256}.jsonl.gz"
    assert file.stat().st_mode & 0o777 == 0o600
    header, *lines = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert (header["format"], header["version"], header["count"]) == ("motet-archive", 1, len(messages))
    assert [line["seq"] for line in lines] == [message.seq for message in messages]


async def test_nothing_archived_comes_back(bus: Bus, nats_url: str, conversation: str) -> None:
    await write(bus.link, bus.namespace, finished(conversation))
    await an_archiver(bus).archive(conversation, now())
    first = (await bus.journal.read_kind(f"task.submitted.{conversation}.>"))[0].data
    assert not isinstance(first, Unreadable)
    task = Task(**{name: getattr(first, name) for name in Task.model_fields})
    async with bus_as(nats_url, bus.namespace, "client") as guest:
        again = await Client(guest).submit(task, conversation)
        assert (again.created, again.conversation) == (False, conversation)
        with pytest.raises(ConflictError, match="submitted before with other content"):
            await Client(guest).submit(Task(kind="content-qa"), conversation)
        with pytest.raises(ConflictError, match="has ended already"):
            await Client(guest).cancel(conversation, by="ann")
        with pytest.raises(NotAllowedError, match=r"may not record task\.archived"):
            await guest.journal.append(Fact(build("task.archived", conversation, 2), _archived_fact()))


def _archived_fact() -> TaskArchived:
    reference = Reference(name="ab" * 32, sha256="ab" * 32, size_bytes=1)
    return TaskArchived(by="ann", first_seq=1, last_seq=1, count=1, reference=reference)


@pytest.mark.parametrize("story", [running, waiting])
async def test_what_has_not_ended_is_never_archived(
    bus: Bus, conversation: str, story: Callable[[str], Recorded]
) -> None:
    await write(bus.link, bus.namespace, story(conversation))
    assert (await an_archiver(bus).archive(conversation, now())).status == "running"
    assert [page async for page in an_archiver(bus).candidates(now())] == []


async def test_what_ended_a_moment_ago_stays_and_a_look_changes_nothing(bus: Bus, conversation: str) -> None:
    await write(bus.link, bus.namespace, finished(conversation))
    before = await stored(bus.link, bus.namespace)
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    assert (await an_archiver(bus).archive(conversation, an_hour_ago)).status == "too young"
    assert (await an_archiver(bus).archive(conversation, now(), dry_run=True)).status == "would archive"
    assert (await an_archiver(bus).archive("nobody", now())).status == "unknown"
    assert (await an_archiver(bus).archive(conversation, now(), up_to=before[5].seq)).status == "awaited"
    assert await stored(bus.link, bus.namespace) == before
    assert [page async for page in an_archiver(bus).candidates(an_hour_ago)] == []


async def test_everything_is_kept_that_the_stream_held_rubbish_and_large_bodies_too(
    bus: Bus, nats_url: str, conversation: str, tmp_path: Path
) -> None:
    link, namespace, client = bus.link, bus.namespace, Client(bus)
    story = finished(conversation)
    draft = await bus.objects.put(b"a draft" * 50_000, "text/markdown")
    await outsider_writes(link, namespace, f"step.executed.{conversation}.x.1", b"\xff\x00 not text", {"a": "é ü"})
    await outsider_writes(link, namespace, f"plan.strange.{conversation}.1", b"")
    await outsider_writes(link, namespace, f"step.renewed.{conversation}.tone.1", b"{}")
    await outsider_writes(link, namespace, f"step.renewed.{conversation}.tone.1", b"{}")
    await write(link, namespace, story)
    inner = json.dumps({"outputs": [], "draft": json.loads(draft.to_json())}).encode()
    large = (await bus.objects.put(inner, "application/json")).to_json()
    await outsider_writes(link, namespace, f"handled.learn.{conversation}.7", large, {BODY_REFERENCE: "1"})
    lost = Reference(name="cd" * 32, sha256="cd" * 32, size_bytes=5).to_json()
    await outsider_writes(link, namespace, f"handled.learn.{conversation}.8", lost, {BODY_REFERENCE: "1"})
    messages = await stored(link, namespace, conversation_filter(conversation))
    before = await shown(client, conversation)
    await an_archiver(bus, tmp_path).archive(conversation, now())
    [file] = files_in(tmp_path)
    archived = read_archive(io.BytesIO(file.read_bytes()), namespace, conversation)
    assert list(archived.messages) == messages
    assert archived.objects[draft.sha256] == b"a draft" * 50_000
    # The folder alone is enough.
    await link.api(f"STREAM.PURGE.OBJ_{namespace.bucket('motet-objects')}", {})
    async with bus_as(nats_url, namespace, "client") as fresh:
        assert await shown(Client(fresh), conversation) == before
        assert await fresh.objects.get(draft) == b"a draft" * 50_000


_HEADERS = st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=20), max_size=3)
_MESSAGES = st.lists(st.tuples(st.binary(max_size=50) | st.text(max_size=50).map(str.encode), _HEADERS), min_size=1)


@given(_MESSAGES, st.sampled_from(["", "team-a"]))
def test_an_archive_gives_back_what_was_put_in(content: list[tuple[bytes, dict[str, str]]], name: str) -> None:
    namespace = Namespace(name)
    messages = [
        StoredMessage(namespace.wire(f"plan.x.c.{seq}"), headers, body, seq, START + timedelta(microseconds=seq))
        for seq, (body, headers) in enumerate(content, 1)
    ]
    assert read_archive(io.BytesIO(packed(namespace, messages)), namespace, "c") == Archived(
        tuple(messages), tuple(messages[:1])
    )
    assert packed(namespace, messages) == packed(namespace, messages)


def packed(namespace: Namespace, messages: list[StoredMessage]) -> bytes:
    """Return an archive's bytes."""
    file = io.BytesIO()
    ArchiveWriter(file, namespace, "c", Archived(tuple(messages), tuple(messages[:1])), ()).close()
    return file.getvalue()


@given(st.data())
def test_damage_is_noticed_wherever_it_is(data: st.DataObject) -> None:
    whole = packed(Namespace(), [StoredMessage("plan.x.c.1", {"a": "b"}, b"body", 1, START)])
    place = data.draw(st.integers(10, len(whole) - 1))  # the first ten bytes say nothing of the content
    for broken in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :], whole + b"more"):
        with pytest.raises(ArchiveError):
            read_archive(io.BytesIO(broken), Namespace(), "c")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"format": "other"}, "no archive of Motet"),
        ({"format": "motet-archive", "version": 2}, "upgrade this process"),
        ({"format": "motet-archive", "version": 1, "conversation": "b"}, "holds the conversation b"),
        (
            {"format": "motet-archive", "version": 1, "conversation": "c", "count": 1, "letters": 0, "objects": 0},
            "ends too early",
        ),
        ([], "no JSON object"),
    ],
)
def test_what_is_no_archive_of_this_conversation_is_refused(line: object, said: str) -> None:
    with pytest.raises(ArchiveError, match=said):
        read_archive(io.BytesIO(gzip.compress(json.dumps(line).encode() + b"\n")), Namespace(), "c")


def test_references_are_found_at_any_depth() -> None:
    reference = {"name": "ab" * 32, "sha256": "ab" * 32, "size_bytes": 3, "media_type": "text/plain"}
    body = json.dumps({"a": [{"b": reference}, {"name": "x", "sha256": "y", "size_bytes": 1}]}).encode()
    assert [found.sha256 for found in references_in(body)] == ["ab" * 32]
    assert references_in(b"not json") == []
    assert references_in(b"[" * 100_000) == []


async def test_a_missing_or_damaged_archive_is_a_clear_error(
    bus: Bus, conversation: str, tmp_path: Path, nats_url: str
) -> None:
    client, folder = Client(bus), tmp_path / "here"
    await write(bus.link, bus.namespace, finished(conversation))
    await an_archiver(bus, folder).archive(conversation, now())
    before = await client.events(conversation)
    moved = folder.rename(tmp_path / "there")
    with pytest.raises(ArchiveError, match=r"archived by ann into .*here on .* --archive DIR"):
        await client.events(conversation)
    assert await client.events(conversation, moved) == before
    [file] = files_in(moved)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ArchiveError, match=r"damaged: it has another SHA-256"):
        await client.events(conversation, moved)
    assert [one.status for one in await client.conversations()] == ["completed"], "the list needs no archive"


async def test_an_archive_that_the_object_store_lost_is_a_clear_error(bus: Bus, conversation: str) -> None:
    await write(bus.link, bus.namespace, finished(conversation))
    await an_archiver(bus).archive(conversation, now())
    await bus.link.api(f"STREAM.PURGE.OBJ_{bus.namespace.bucket('motet-objects')}", {})
    with pytest.raises(ArchiveError, match=r"cannot be read from the object store: there is no object .* backup"):
        await Client(bus).events(conversation)


async def test_a_folder_that_cannot_be_written_is_an_error_and_nothing_is_purged(
    bus: Bus, conversation: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    await write(bus.link, bus.namespace, finished(conversation))
    before = await stored(bus.link, bus.namespace)
    with pytest.raises(FolderError, match="--to: cannot write to"):
        await an_archiver(bus, tmp_path / "file").archive(conversation, now())
    assert await stored(bus.link, bus.namespace) == before


@pytest.mark.parametrize(("point", "in_folder"), [(point, False) for point in POINTS] + [(POINTS[0], True)])
async def test_killed_at_any_point_and_run_again_nothing_is_lost(
    bus: Bus, nats_url: str, conversation: str, tmp_path: Path, point: str, in_folder: bool
) -> None:
    folder = tmp_path / "archives" if in_folder else None
    client, other = Client(bus), new_conversation()
    await write(bus.link, bus.namespace, finished(conversation), finished(other))
    before = {one: await shown(client, one) for one in (conversation, other)}
    ids = f"{conversation},{other}"
    arguments = [nats_url, bus.namespace.name, str(folder or ""), ids]
    assert await in_a_process(*arguments, point) == -signal.SIGKILL
    assert {one: await shown(client, one) for one in (conversation, other)} == before, "before it is run again"
    left = [one async for page in Archiver(bus, by="ann").candidates(now()) for one in page]
    assert set(left) == (set(before) if point != LAST_PURGE else {other}), "the next run finds what is left to do"
    assert await in_a_process(*arguments, "nowhere") == 0
    assert {one: await shown(client, one) for one in (conversation, other)} == before
    assert await kinds(bus, conversation) == KEPT
    assert await kinds(bus, other) == KEPT
    assert folder is None or len(files_in(folder)) == 2, "what was written twice is the same"


def files_in(folder: Path) -> list[Path]:
    """Return a folder's files."""
    return list(folder.iterdir())


async def in_a_process(*arguments: str) -> int:
    """Run an archiver in a process of its own; return how it ended."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bus.child_archiver", *arguments)
    async with asyncio.timeout(60):
        return await process.wait()


async def test_a_server_that_is_killed_after_the_purge_loses_nothing(own_server: NatsServer, conversation: str) -> None:
    namespace = Namespace("own")
    async with bus_as(own_server.url, namespace, "operator") as bus:
        await write(bus.link, namespace, finished(conversation))
        before = await shown(Client(bus), conversation)
        await an_archiver(bus).archive(conversation, now())
        own_server.restart()
        assert (await an_archiver(bus).archive(conversation, now())).status in ("nothing left", "cleared")
        assert await shown(Client(bus), conversation) == before
        assert await kinds(bus, conversation) == KEPT


@pytest.mark.open_server
@pytest.mark.parametrize("kind", ["verify.failed", "plan.strange"])
async def test_what_is_recorded_meanwhile_is_archived_too_and_never_purged_unread(
    bus: Bus, nats_server: NatsServer, conversation: str, kind: str
) -> None:
    await write(bus.link, bus.namespace, finished(conversation))
    late = [f"{kind}.{conversation}.late.1"]

    def write_late(point: str) -> None:
        if point == "after reading it back" and late:
            wire = bus.namespace.wire(late.pop())
            publish_raw(nats_server.address, raw_message(wire.encode(), b"NATS/1.0\r\n\r\n", b"{}"))

    archiver = Archiver(bus, by="ann", crash=write_late)
    await archiver.archive(conversation, now())
    assert not late
    archived, left = await everything(bus, conversation)
    assert any(kind in subject for subject in archived | left), "it is in the archive, or it is still in the stream"
    await archiver.archive(conversation, now())
    archived, left = await everything(bus, conversation)
    assert any(kind in subject for subject in archived)
    assert not any(kind in subject for subject in left)


async def everything(bus: Bus, conversation: str) -> tuple[set[str], set[str]]:
    """Return the subjects in the conversation's archives, and those in the stream."""
    archived: set[str] = set()
    for event in await bus.journal.read_kind(f"task.archived.{conversation}.>"):
        assert isinstance(event.data, TaskArchived)
        read = await Archives(bus.link, bus.namespace, bus.objects).read(conversation, event.data)
        archived |= {message.subject for message in read.messages}
    left = await stored(bus.link, bus.namespace, conversation_filter(conversation))
    return archived, {message.subject for message in left}


async def test_late_facts_are_shown_and_leave_with_the_next_run(bus: Bus, conversation: str) -> None:
    client = Client(bus)
    await write(bus.link, bus.namespace, finished(conversation))
    archiver = an_archiver(bus)
    await archiver.archive(conversation, now())
    before = await shown(client, conversation)
    subject = build("verify.passed", conversation, "tone", 1)
    headers, body = encode(Fact(subject, VerifyPassed(verdict="passed", verifier="zombie")), source="/agents/zombie/1")
    await outsider_writes(bus.link, bus.namespace, str(subject), body, headers)
    after = await shown(client, conversation)
    assert after[:-1] == before
    assert kinds_of(after[-1:]) == ["verify.passed"]
    assert [page async for page in archiver.candidates(now())] == [[conversation]]
    assert (await archiver.archive(conversation, now())).status == "archived"
    assert await kinds(bus, conversation) == [*KEPT, "task.archived"]
    assert await shown(client, conversation) == after
    assert (await archiver.archive(conversation, now())).status == "nothing left"
    assert [one async for page in archiver.candidates(now()) for one in page] == []


async def test_two_that_archive_at_the_same_time_do_it_once(bus: Bus, nats_url: str, conversation: str) -> None:
    await write(bus.link, bus.namespace, finished(conversation))
    before = await shown(Client(bus), conversation)
    async with bus_as(nats_url, bus.namespace, "operator") as other:
        await asyncio.gather(*(an_archiver(one).archive(conversation, now()) for one in (bus, other)))
    assert await kinds(bus, conversation) == KEPT
    assert await shown(Client(bus), conversation) == before


async def test_its_timers_are_taken_back(bus: Bus, nats_url: str, conversation: str) -> None:
    await write(bus.link, bus.namespace, finished(conversation))
    subject = build("timer.set", conversation, "budget", 1)
    async with bus_as(nats_url, bus.namespace, "orchestrator") as orchestrator:
        await orchestrator.journal.append(Fact(subject, TimerSet(at=now() + timedelta(days=1))))
    timers = bus.namespace.stream("TIMERS")
    assert await bus.link.read_last_for(timers, bus.namespace.wire(f"alarm.{conversation}.>")) is not None
    await an_archiver(bus).archive(conversation, now())
    assert await bus.link.read_last_for(timers, bus.namespace.wire(f"alarm.{conversation}.>")) is None


async def test_an_unsettled_dead_letter_keeps_its_conversation_and_a_settled_one_leaves_with_it(
    bus: Bus, conversation: str
) -> None:
    link, namespace = bus.link, bus.namespace
    await write(link, namespace, finished(conversation))
    await outsider_writes(link, namespace, f"dead.learn.{conversation}.7", b'{"a": "letter"}')
    archiver = an_archiver(bus)
    assert (await archiver.archive(conversation, now())).status == "unsettled"
    act = Fact(build("letter.discarded", conversation, "learn", 7), LetterDiscarded(by="ann", reason="no use"))
    await bus.journal.append(act)
    assert (await archiver.archive(conversation, now())).status == "archived"
    letters = namespace.stream("DEAD_LETTERS")
    assert await link.read_last_for(letters, namespace.wire(f"dead.*.{conversation}.>")) is None
    fact = (await bus.journal.read_kind(f"task.archived.{conversation}.>"))[0].data
    assert isinstance(fact, TaskArchived)
    [letter] = (await Archives(link, namespace, bus.objects).read(conversation, fact)).letters
    assert (letter.subject, letter.body) == (namespace.wire(f"dead.learn.{conversation}.7"), b'{"a": "letter"}')


async def test_conversations_are_found_page_by_page(link: Link, nats_url: str, namespace: Namespace) -> None:
    async with bus_as(nats_url, namespace, "operator") as bus:
        for number in range(300):
            story = finished(f"c-{number}")
            picked = [event for event in story.events if event.kind in ("task.submitted", "plan.requested")]
            story.events = [*picked, story.events[-1]]
            await write(link, namespace, story)
        archiver = an_archiver(bus)
        await archiver.archive("c-0", now())
        pages = [page async for page in archiver.candidates(now())]
        assert [len(page) for page in pages] == [255, 44]
        assert sorted(one for page in pages for one in page) == sorted(f"c-{number}" for number in range(1, 300))
