"""Streams and consumers as data: created when missing, compared when there, never altered in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from motet_bus.answers import NAME_IN_USE, ServerRefusedError
from motet_bus.link import Link
from motet_schemas.errors import BusUnavailableError, BusUnsuitableError, NotAllowedError, NotFoundError
from motet_schemas.subjects import ALARM, TICK, Namespace

log = structlog.get_logger(__name__)

CONVERSATIONS: Final = "CONVERSATIONS"
TIMERS: Final = "TIMERS"
DEAD_LETTERS: Final = "DEAD_LETTERS"
OBJECTS: Final = "motet-objects"

_NANOSECONDS: Final = 1_000_000_000
_RACES: Final = 3
_ELECTION_S: Final = 15.0
_LOOK_AGAIN_S: Final = 0.5
_SCALE_UP: Final = "stop the agents, `nats stream edit STREAM --replicas N`, start them again"


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """A stream as Motet needs it: kept without limit of age or number. Sizes in bytes, times in seconds.

    `schedules` lets messages be sent later (`Nats-Schedule`): whoever may write to such a stream can write on all its
    subjects, and empty it. `kept` forbids to delete single messages. `sources` are streams whose messages the server
    copies: (name, its subject, ours).
    """

    name: str
    subjects: tuple[str, ...]
    description: str
    schedules: bool = False
    kept: bool = False
    sources: tuple[tuple[str, str, str], ...] = ()
    duplicate_window_s: float = 120.0
    max_message_bytes: int = 1 << 20

    def rules(self) -> dict[str, Any]:
        """Return the settings that must hold, as JetStream names them; every other setting is the operator's."""
        return {
            "subjects": sorted(self.subjects),
            "retention": "limits",
            "storage": "file",
            "discard": "old" if self.schedules else "new",  # the server refuses schedules with "new"
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msgs_per_subject": -1,
            "max_msg_size": self.max_message_bytes,
            "max_consumers": -1,
            "duplicate_window": round(self.duplicate_window_s * _NANOSECONDS),
            "allow_direct": True,
            "allow_msg_schedules": self.schedules,
            "allow_msg_ttl": self.schedules,
            "allow_rollup_hdrs": self.schedules,  # schedules switch it on
            "sources": [
                {"name": name, "subject_transforms": [{"src": theirs, "dest": ours}]}
                for name, theirs, ours in self.sources
            ],
            "deny_delete": self.kept,
            "deny_purge": False,
            "sealed": False,
        }

    def config(self, *, replicas: int = 1) -> dict[str, Any]:
        """Return the JSON that creates the stream."""
        return {"name": self.name, "description": self.description, "num_replicas": replicas, **self.rules()}


@dataclass(frozen=True, kw_only=True)
class ConsumerSpec:
    """A durable pull consumer with explicit acks, from the first message on, delivering again without end.

    `ack_wait_s` is how long a message that nobody acknowledges or keeps alive stays away, in seconds;
    `max_ack_pending` how many may be out at once, over all workers.
    """

    stream: str
    durable: str
    filter_subjects: tuple[str, ...]
    max_ack_pending: int
    ack_wait_s: float = 10.0
    description: str = ""

    def rules(self) -> dict[str, Any]:
        """Return the settings that must hold, as JetStream names them."""
        return {
            "durable_name": self.durable,
            "filter_subjects": sorted(self.filter_subjects),
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": round(self.ack_wait_s * _NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": self.max_ack_pending,
            "replay_policy": "instant",
            "inactive_threshold": 0,
            "backoff": [],
            "deliver_subject": "",
            "headers_only": False,
        }

    def config(self) -> dict[str, Any]:
        """Return the JSON that creates the consumer."""
        return {
            "name": self.durable,
            "description": self.description,
            **{name: value for name, value in self.rules().items() if value},
        }


def conversations_stream(namespace: Namespace) -> StreamSpec:
    """Return the stream that holds every recorded fact."""
    return StreamSpec(
        name=namespace.stream(CONVERSATIONS),
        subjects=namespace.families(),
        description="Motet: every fact of every conversation, recorded once",
        kept=True,
        sources=((namespace.stream(TIMERS), namespace.wire(f"{TICK}.>"), namespace.wire("timer.fired.>")),),
    )


def timers_stream(namespace: Namespace) -> StreamSpec:
    """Return the stream of what is to happen later; the server copies its ticks to the conversations.

    It stands alone because of what a writer can do in a stream with schedules: only the orchestrator writes here.
    """
    return StreamSpec(
        name=namespace.stream(TIMERS),
        subjects=namespace.families((ALARM, TICK)),
        description="Motet: alarms, and their ticks on the way to the conversations",
        schedules=True,
    )


def dead_letters_stream(namespace: Namespace) -> StreamSpec:
    """Return the stream that holds what could not be handled, with its cause."""
    return StreamSpec(
        name=namespace.stream(DEAD_LETTERS),
        subjects=(namespace.wire("dead.>"),),
        description="Motet: messages that could not be handled, with their cause",
    )


def objects_stream(namespace: Namespace) -> StreamSpec:
    """Return the stream under the bucket of large bodies (a NATS object store)."""
    bucket = namespace.bucket(OBJECTS)
    return StreamSpec(
        name=f"OBJ_{bucket}",
        subjects=(f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"),
        description="Motet: large bodies, stored by content",
    )


async def apply_streams(link: Link, namespace: Namespace, *, replicas: int = 1) -> int:
    """Create the streams that are missing, with `replicas` copies, and compare the others.

    Any number of processes may do this at once. Returns how many copies there are of the stream that has most; one with
    fewer than asked is logged. While a cluster elects its leaders this waits, 20 s at most. Raises `BusUnsuitableError`
    when a stream is not as it must be: the message lists field, expected and found. Nothing that exists is altered.
    """
    most = 1
    for spec in (
        timers_stream(namespace),
        conversations_stream(namespace),
        dead_letters_stream(namespace),
        objects_stream(namespace),
    ):
        most = max(most, await _patiently(link, spec, replicas))
    return most


async def _patiently(link: Link, spec: StreamSpec, replicas: int) -> int:
    """Ensure one stream; ask again while nobody leads the cluster."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _ELECTION_S
    while True:
        try:
            return await ensure_stream(link, spec, replicas=replicas)
        except BusUnavailableError as error:
            if loop.time() > give_up:
                raise
            log.info("stream.waiting", stream=spec.name, error=error.message)
        await asyncio.sleep(_LOOK_AGAIN_S)


async def ensure_stream(link: Link, spec: StreamSpec, *, replicas: int = 1) -> int:
    """Create one stream, or compare it with `spec`, and return its number of copies; see `apply_streams`."""
    for _ in range(_RACES):
        try:
            found = (await link.api(f"STREAM.INFO.{spec.name}", {}))["config"]
        except NotFoundError:
            if await _created(link, f"STREAM.CREATE.{spec.name}", spec.config(replicas=replicas)):
                log.info("stream.created", stream=spec.name, replicas=replicas)
                return replicas
        else:
            _compare(f"stream {spec.name}", spec.rules(), {**found, "subjects": sorted(found.get("subjects", []))})
            copies = int(found.get("num_replicas", 1))
            if copies < replicas:
                log.warning("stream.fewer_replicas", stream=spec.name, found=copies, asked=replicas, advice=_SCALE_UP)
            return copies
    raise BusUnsuitableError(
        f"stream {spec.name}: somebody creates and deletes it at the same time; stop that and retry"
    )


async def ensure_consumer(link: Link, spec: ConsumerSpec) -> None:
    """Create one durable consumer, or compare it with `spec`. Raises `BusUnsuitableError` when it differs.

    Versions that listen to more, or less, may run side by side: one that lacks some of our filters gains them (from
    where it stands on), one that has more is left as it is.
    """
    what, wanted = f"consumer {spec.durable} of {spec.stream}", set(spec.filter_subjects)
    for _ in range(_RACES):
        try:
            found = (await link.api(f"CONSUMER.INFO.{spec.stream}.{spec.durable}", {}))["config"]
        except NotFoundError:
            request = {"stream_name": spec.stream, "config": spec.config(), "action": "create"}
            if await _created(link, f"CONSUMER.CREATE.{spec.stream}.{spec.durable}", request):
                log.info("consumer.created", stream=spec.stream, consumer=spec.durable)
                return
        else:
            filters = filters_of(found)
            related = bool(filters) and (filters <= wanted or filters >= wanted)
            compared = {**found, "filter_subjects": sorted(wanted if related else filters)}
            _compare(what, spec.rules(), compared)
            if filters >= wanted:
                return
            await update_consumer(link, spec.stream, {**found, "filter_subjects": sorted(wanted)})
            log.warning("consumer.filters_added", consumer=spec.durable, added=sorted(wanted - filters))
    raise BusUnsuitableError(
        f"consumer {spec.durable}: somebody creates and deletes it at the same time; stop that and retry"
    )


def filters_of(config: dict[str, Any]) -> set[str]:
    """Return what a consumer listens to, by its configuration on the server; empty for everything."""
    return {*(config.get("filter_subjects") or []), *filter(None, [config.get("filter_subject")])}


async def update_consumer(link: Link, stream: str, config: dict[str, Any]) -> None:
    """Give an existing consumer this configuration, as `CONSUMER.INFO` shows it; a pause stays."""
    config = {name: value for name, value in config.items() if name != "filter_subject"}
    request = {"stream_name": stream, "config": config, "action": "update"}
    await link.api(f"CONSUMER.CREATE.{stream}.{config['name']}", request)


async def _created(link: Link, op: str, config: dict[str, Any]) -> bool:
    """Create; False when somebody else was first, with other settings."""
    try:
        await link.api(op, config)
    except ServerRefusedError as error:
        if error.err_code in NAME_IN_USE:
            return False
        raise
    except NotAllowedError as error:
        what, _, name = op.partition(".CREATE.")
        raise NotAllowedError(
            f"{what.lower()} {name} is missing, and these credentials may not make it: have an operator run "
            "`motet topology`, then start again"
        ) from error
    return True


def differences(expected: dict[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return what each setting of `expected` is, where `found` has another value.

    A setting that the server leaves out of its answer has its zero value.
    """
    return [
        f"{name}: expected {value!r}, found {found.get(name)!r}"
        for name, value in expected.items()
        if found.get(name, type(value)()) != value
    ]


def _compare(what: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise `BusUnsuitableError` that lists every setting of `expected` that `found` does not have."""
    if changed := differences(expected, found):
        raise BusUnsuitableError(
            f"{what} is not as Motet needs it: {'; '.join(changed)}. Motet does not alter what it did not create: "
            "set these back (`nats stream edit` or `nats consumer edit`), or use another namespace"
        )
