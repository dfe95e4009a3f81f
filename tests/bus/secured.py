"""The secured bus, for the tests: servers with the configuration that `motet auth init` writes, and who connects how.

With MOTET_TEST_BUS=secured the tests' servers are of this kind. An agent connects with its role's credentials; a test
that looks on, or interferes, connects as `god`, a user of the trusted account whom only tests have.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from motet_bus import Agent, Bus, ConnectOptions, Role, RunOptions, open_bus
from motet_bus.consumer import ConsumerSettings
from motet_bus.permissions import TRUSTED, Principal, accounts
from motet_bus.topology import ensure_consumer
from motet_gateway.certificates import issue_server_certificate, make_authority
from motet_gateway.user_keys import new_seed, public_key
from motet_schemas import Namespace, Subject

SECURED: Final = os.environ.get("MOTET_TEST_BUS") == "secured"
GOD: Final = "god"
ROLES: Final[tuple[Role, ...]] = (
    "orchestrator",
    "planner",
    "executor",
    "verifier",
    "specialist",
    "desk",
    "client",
    "outsider",
    "operator",
)
_WORKERS: Final = ROLES[:5]
_PREPARED: Final[dict[str, str]] = {}
"""God's URL by the namespaces that were prepared there."""


@dataclass(frozen=True, slots=True)
class EveryNamespace(Namespace):
    """All namespaces at once, so that one server serves all tests, each in its own."""

    def __post_init__(self) -> None:
        """There is no name to check."""

    def wire(self, subject: Subject | str) -> str:
        return f"*.{subject}"

    def stream(self, name: str) -> str:
        return "*"

    def bucket(self, name: str) -> str:
        return "*"


def principals(consumers: Iterable[str] = ("*",)) -> list[Principal]:
    """Return one principal for each role; the workers may pull from `consumers`."""
    served = tuple(consumers)
    return [Principal(name=role, role=role, consumers=served if role in _WORKERS else ()) for role in ROLES]


@cache
def authority() -> tuple[bytes, bytes, Path]:
    """Return this process's authority, its key, and the file of its certificate, which OpenSSL trusts from now on."""
    certificate, key = make_authority()
    file = Path(tempfile.mkdtemp(prefix="motet-test-ca-")) / "ca.pem"
    file.write_bytes(certificate)
    os.environ["SSL_CERT_FILE"] = str(file)
    return certificate, key, file


def secured_config(directory: Path, who: list[Principal], namespace: Namespace) -> str:
    """Write keys and certificates into `directory`; return what the server's configuration needs besides its port."""
    certificate, key, file = authority()
    mine, my_key = issue_server_certificate(certificate, key, ())
    (directory / "server.pem").write_bytes(mine)
    (directory / "server.key").write_bytes(my_key)
    (directory / "ca.pem").write_bytes(file.read_bytes())
    public: dict[str, str] = {}
    for principal in who:
        seed = new_seed()
        (directory / f"{principal.name}.nk").write_bytes(seed)
        public[principal.name] = public_key(seed)
    made = accounts(who, namespace, public)
    made[TRUSTED]["users"].append({"user": GOD, "password": str(directory)})
    settings = {
        "tls": {"cert_file": str(directory / "server.pem"), "key_file": str(directory / "server.key")},
        "accounts": made,
    }
    return json.dumps(settings)[1:-1]


def god_info(directory: Path) -> str:
    """Return the user information of god's URL: the password says where the credentials of all others are."""
    return f"{GOD}:{quote(str(directory), safe='')}"


def options_as(url: str, name: str, role: Role | None) -> ConnectOptions:
    """Return how `role` connects to the server at god's `url`; on an open server all are the same.

    Without a role it is god; so are operators, since tests let them do what no role may.
    """
    parsed = urlsplit(url)
    if role in (None, "operator") or parsed.username != GOD or parsed.password is None:
        return ConnectOptions(url=url, name=name)
    directory = Path(unquote(parsed.password))
    who = Principal(name=role, role=role)
    return ConnectOptions(
        url=f"tls://{parsed.hostname}:{parsed.port}",
        name=name,
        nkey=directory / f"{role}.nk",
        tls_ca=directory / "ca.pem",
        inbox_prefix=who.inbox_prefix,
        api_prefix=who.api_prefix,
    )


def is_secured(url: str) -> bool:
    """Say whether god's URL leads to a secured server."""
    return urlsplit(url).username == GOD


async def prepare(url: str, namespace: str, agent: Agent | None = None, run: RunOptions | None = None) -> None:
    """On a secured server do what an operator does with `motet topology`: agents may not make what they need."""
    if not is_secured(url):
        return
    _PREPARED[namespace] = url
    async with god(url, namespace) as bus:
        for registration in agent.registrations if agent else ():
            await ensure_consumer(bus.link, registration.consumer(bus, run or RunOptions()).settings.spec(bus))


async def prepare_consumer(bus: Bus, settings: ConsumerSettings) -> None:
    """On a secured server make one consumer for an agent's `bus`, whose namespace was prepared."""
    if (url := _PREPARED.get(bus.namespace.name)) is not None:
        async with god(url, bus.namespace.name) as above:
            await ensure_consumer(above.link, settings.spec(above))


@asynccontextmanager
async def god(url: str, namespace: str) -> AsyncGenerator[Bus]:
    """Open a bus as god."""
    async with open_bus(options_as(url, GOD, None), role="operator", name=GOD, namespace=namespace) as bus:
        yield bus
