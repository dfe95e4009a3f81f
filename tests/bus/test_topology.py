"""Streams and consumers are created once, compared ever after, and never altered in silence."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from motet_bus.answers import ServerRefusedError
from motet_bus.connect import ConnectOptions, connect
from motet_bus.link import Link
from motet_bus.topology import (
    ConsumerSpec,
    apply_streams,
    conversations_stream,
    dead_letters_stream,
    ensure_consumer,
    ensure_stream,
    objects_stream,
)
from motet_schemas.errors import BusUnsuitableError, NotFoundError
from motet_schemas.subjects import FAMILIES, Namespace
from tests.bus.servers import until


def consumer(namespace: Namespace, *filters: str) -> ConsumerSpec:
    return ConsumerSpec(
        stream=namespace.stream("CONVERSATIONS"),
        durable="planner",
        filter_subjects=tuple(namespace.wire(name) for name in filters or ("plan.requested.>",)),
        max_ack_pending=50,
    )


async def test_applying_twice_changes_nothing(link: Link, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    name = namespace.stream("CONVERSATIONS")
    before = (await link.api(f"STREAM.INFO.{name}", {}))["config"]
    await apply_streams(link, namespace)
    assert (await link.api(f"STREAM.INFO.{name}", {}))["config"] == before
    assert sorted(before["subjects"]) == sorted(f"{namespace.name}.{family}.>" for family in FAMILIES)
    assert before["num_replicas"] == 1


async def test_every_stream_keeps_all_it_was_given(namespace: Namespace) -> None:
    for spec in (conversations_stream(namespace), dead_letters_stream(namespace), objects_stream(namespace)):
        rules = spec.rules()
        assert (rules["retention"], rules["storage"]) == ("limits", "file")
        assert (rules["max_age"], rules["max_msgs"], rules["max_bytes"], rules["max_msgs_per_subject"]) == (
            0,
            -1,
            -1,
            -1,
        )


async def test_many_processes_may_apply_at_once(nats_url: str, namespace: Namespace) -> None:
    links = [await connect(ConnectOptions(url=nats_url)) for _ in range(8)]
    await asyncio.gather(*(apply_streams(link, namespace) for link in links))
    spec = consumer(namespace)
    await asyncio.gather(*(ensure_consumer(link, spec) for link in links))
    for link in links:
        await link.close()


async def test_a_changed_stream_is_reported_field_by_field_and_left_alone(link: Link, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    name = namespace.stream("CONVERSATIONS")
    config = (await link.api(f"STREAM.INFO.{name}", {}))["config"]
    changed = {**config, "max_age": 3600 * 10**9, "subjects": config["subjects"][1:]}
    await link.api(f"STREAM.UPDATE.{name}", changed)
    with pytest.raises(BusUnsuitableError) as refused:
        await apply_streams(link, namespace)
    for part in (name, "max_age: expected 0, found 3600000000000", "subjects: expected", "nats stream edit"):
        assert part in refused.value.message
    assert "retention" not in refused.value.message
    assert (await link.api(f"STREAM.INFO.{name}", {}))["config"]["max_age"] == 3600 * 10**9


async def test_what_is_the_operators_business_may_differ(link: Link, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    name = namespace.stream("CONVERSATIONS")
    config = (await link.api(f"STREAM.INFO.{name}", {}))["config"]
    await link.api(f"STREAM.UPDATE.{name}", {**config, "description": "ours", "compression": "s2"})
    await apply_streams(link, namespace)


async def test_a_stream_of_another_kind_under_our_name_is_reported(link: Link, namespace: Namespace) -> None:
    name = namespace.stream("DEAD_LETTERS")
    await link.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], "storage": "memory"})
    with pytest.raises(BusUnsuitableError, match=r"storage: expected 'file', found 'memory'"):
        await ensure_stream(link, dead_letters_stream(namespace))


async def test_subjects_that_belong_to_another_stream_are_reported(link: Link, namespace: Namespace) -> None:
    other = f"other{namespace.name}"
    await link.api(f"STREAM.CREATE.{other}", {"name": other, "subjects": [namespace.wire("plan.>")]})
    with pytest.raises(BusUnsuitableError, match="overlap"):
        await apply_streams(link, namespace)


async def test_a_consumer_is_created_as_specified_and_compared(link: Link, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    spec = consumer(namespace, "plan.created.>", "verify.failed.>")
    await ensure_consumer(link, spec)
    await ensure_consumer(link, spec)
    config = (await link.api(f"CONSUMER.INFO.{spec.stream}.{spec.durable}", {}))["config"]
    assert config["ack_policy"] == "explicit"
    assert config["ack_wait"] == 10 * 10**9
    assert config["max_deliver"] == -1
    assert config["max_ack_pending"] == 50
    assert sorted(config["filter_subjects"]) == sorted(spec.filter_subjects)
    with pytest.raises(BusUnsuitableError, match="max_ack_pending: expected 60, found 50"):
        await ensure_consumer(link, replace(spec, max_ack_pending=60))
    with pytest.raises(BusUnsuitableError, match="filter_subjects"):
        await ensure_consumer(link, consumer(namespace))


async def test_a_consumer_with_one_filter_compares_equal_to_itself(link: Link, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    await ensure_consumer(link, consumer(namespace))
    await ensure_consumer(link, consumer(namespace))


async def test_a_consumer_that_somebody_made_otherwise_is_reported(link: Link, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    spec = consumer(namespace)
    config = {"durable_name": spec.durable, "ack_policy": "explicit", "backoff": [10**9], "max_deliver": 3}
    await link.api(
        f"CONSUMER.CREATE.{spec.stream}.{spec.durable}",
        {"stream_name": spec.stream, "config": {**config, "name": spec.durable}},
    )
    with pytest.raises(BusUnsuitableError) as refused:
        await ensure_consumer(link, spec)
    for part in ("max_deliver: expected -1, found 3", "backoff", "filter_subjects", "ack_wait"):
        assert part in refused.value.message


async def test_a_consumer_needs_its_stream(link: Link, namespace: Namespace) -> None:
    with pytest.raises(NotFoundError):
        await ensure_consumer(link, consumer(namespace))


async def test_a_schedule_ticks_on_the_conversations_stream(link: Link, namespace: Namespace) -> None:
    await apply_streams(link, namespace)
    headers = {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": namespace.wire("tick.c1.retry")}
    await link.publish_stored(namespace.wire("alarm.c1.retry"), b"{}", headers)
    stream, fired = namespace.stream("CONVERSATIONS"), namespace.wire("timer.fired.c1.retry")

    async def ticked() -> bool:
        return await link.read_last_for(stream, fired) is not None

    await until(ticked)
    tick = await link.read_last_for(stream, fired)
    assert tick is not None
    assert tick.headers["Nats-Scheduler"] == namespace.wire("alarm.c1.retry")


@pytest.mark.parametrize(
    "header",
    [
        {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": "verify.passed.c1.s1.1"},
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-TTL": "1s"},
        {"Nats-Stream-Source": "TIMERS 1 tick.> timer.fired.> tick.c1.budget.1"},
    ],
    ids=lambda header: next(iter(header)),
)
async def test_a_writer_of_facts_can_neither_forge_nor_erase_others(
    link: Link, namespace: Namespace, header: dict[str, str]
) -> None:
    await apply_streams(link, namespace)
    await link.publish_stored(namespace.wire("task.submitted.c1.demo"), b"{}", {})
    with pytest.raises((ServerRefusedError, BusUnsuitableError)):
        await link.publish_stored(namespace.wire("step.executed.c1.s1.1"), b"{}", header)
    with pytest.raises(ServerRefusedError):
        await link.api(f"STREAM.MSG.DELETE.{namespace.stream('CONVERSATIONS')}", {"seq": 1})
    assert len(await link.read_batch(namespace.stream("CONVERSATIONS"), namespace.wire("*.*.c1.>"))) == 1
