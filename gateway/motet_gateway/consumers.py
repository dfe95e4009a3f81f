"""What the server says of the consumers: how much waits for each, and whether anybody asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from motet_bus.pausing import Pause, pause_of
from motet_bus.topology import CONVERSATIONS, filters_of
from motet_schemas import NotFoundError

if TYPE_CHECKING:
    from motet_bus.link import Link
    from motet_schemas import Namespace

_PAGES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """One consumer. `pending` messages wait to be delivered, `unacknowledged` are out, `asking` pulls wait.

    Everything for it up to the stream sequence `acknowledged` is done with. `durable` is False for one that goes away
    by itself; `bound` says that somebody is pushed to, `delivered` counts deliveries; `config` is the server's.
    """

    name: str
    pending: int
    unacknowledged: int
    redelivered: int
    asking: int
    acknowledged: int = 0
    filters: tuple[str, ...] = ()
    durable: bool = True
    bound: bool = False
    delivered: int = 0
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    pause: Pause | None = None
    """Who paused it, why, and until when."""

    @property
    def waiting(self) -> int:
        """How many messages it has not done with."""
        return self.pending + self.unacknowledged


async def consumer_states(link: Link, namespace: Namespace) -> list[ConsumerState]:
    """Return the state of every consumer of the conversations; none when there is no stream yet."""
    stream = namespace.stream(CONVERSATIONS)
    found: list[ConsumerState] = []
    for _ in range(_PAGES):
        try:
            page: dict[str, Any] = await link.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        except NotFoundError:
            return []
        infos: list[dict[str, Any]] = page.get("consumers") or []
        found += [_state(info) for info in infos]
        if not infos or len(found) >= int(page.get("total", 0)):
            break
    return sorted(found, key=lambda state: state.name)


def _state(info: dict[str, Any]) -> ConsumerState:
    config: dict[str, Any] = info.get("config") or {}
    acknowledged: dict[str, int] = info.get("ack_floor") or {}
    delivered: dict[str, int] = info.get("delivered") or {}
    return ConsumerState(
        name=str(info["name"]),
        pending=int(info.get("num_pending", 0)),
        unacknowledged=int(info.get("num_ack_pending", 0)),
        redelivered=int(info.get("num_redelivered", 0)),
        asking=int(info.get("num_waiting", 0)),
        acknowledged=acknowledged.get("stream_seq", 0),
        filters=tuple(sorted(filters_of(config))),
        bound=bool(info.get("push_bound")),
        delivered=delivered.get("consumer_seq", 0),
        config=config,
        durable=bool(config.get("durable_name")),
        pause=pause_of(info),
    )
