"""What the server says of the consumers: how much waits for each, and whether anybody asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from motet_bus.topology import CONVERSATIONS
from motet_schemas import NotFoundError

if TYPE_CHECKING:
    from motet_bus.link import Link
    from motet_schemas import Namespace

_PAGES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """One durable consumer. `pending` messages wait to be delivered, `unacknowledged` are out, `asking` pulls wait."""

    name: str
    pending: int
    unacknowledged: int
    redelivered: int
    asking: int


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
    return ConsumerState(
        name=str(info["name"]),
        pending=int(info.get("num_pending", 0)),
        unacknowledged=int(info.get("num_ack_pending", 0)),
        redelivered=int(info.get("num_redelivered", 0)),
        asking=int(info.get("num_waiting", 0)),
    )
