"""What each role's credentials allow on the server, derived from what it may say and from how the bus speaks.

Every user but the operator lives in an account of its own and reaches the streams, which are in the account `MOTET`,
by imports. In one account for all, whoever may ask for a message could have the answer sent to a fact's subject, and
the server would record it (a confused deputy); an answer stays in the account of who asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from motet_bus.asking import SHOWN
from motet_bus.ended import ENDED
from motet_bus.grants import GRANTS, Role
from motet_bus.presence import DRAINS, ROLL_CALL
from motet_bus.pull_protocol import EXPIRES_S, next_operation
from motet_bus.topology import OBJECTS, conversations_stream, dead_letters_stream, objects_stream, timers_stream
from motet_schemas import Namespace
from motet_schemas.ids import check_token
from motet_schemas.subjects import ALARM, kind_shape

TRUSTED: Final = "MOTET"
"""The account that holds the streams."""
API: Final = "$JS.API"
IMPORTED_API: Final = "MOTET.API"
"""What the trusted account's API is called in the others: each of them has an API of its own, which knows nothing."""
EVERYTHING: Final = "*.*.*.>"

_AGENTS: Final = frozenset[Role]({"orchestrator", "planner", "executor", "verifier", "specialist"})
_PEOPLE: Final = frozenset[Role]({"desk", "client", "operator"})
_WATCHERS: Final = frozenset[Role]({"desk", "client"})
_PULL_S: Final = round(2 * EXPIRES_S)
_READ_S: Final = 15
"""The server remembers every question for so long, so it must be long enough and no longer."""
_OUTSIDERS_LIMITS: Final = {"max_connections": 64, "max_subscriptions": 1_024, "max_payload": 300 * 1024}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """One set of credentials: a role, the name it is played under, and the durable consumers it works on."""

    name: str
    role: Role
    consumers: tuple[str, ...] = ()

    @property
    def account(self) -> str:
        """The account that its user lives in."""
        return TRUSTED if self.role == "operator" else self.name

    @property
    def inbox_prefix(self) -> str:
        """Where answers to it go."""
        return f"_INBOX_{self.name}"

    @property
    def api_prefix(self) -> str:
        """What it calls JetStream's API."""
        return API if self.role == "operator" else IMPORTED_API


@dataclass(frozen=True, slots=True)
class Service:
    """A subject of the trusted account that a user may publish on. `local` is what its own account calls it.

    Answers may come for `answers_s` seconds; with 0 there is one at most.
    """

    subject: str
    local: str
    answers_s: int = 0


def facts(principal: Principal, namespace: Namespace) -> tuple[str, ...]:
    """Return the subjects, with wildcards, that the principal may record facts on: those of its grants, no others."""
    shapes: list[str] = []
    for kind in sorted(GRANTS[principal.role]):
        if kind == "handled":
            shapes += [kind_shape(kind, consumer=consumer) for consumer in principal.consumers]
        elif kind == "task.cancel" and principal.role == "outsider":
            shapes.append(f"{kind}.*.{principal.name}")
        else:
            shapes.append(kind_shape(kind))
    return tuple(map(namespace.wire, shapes))


def services(principal: Principal, namespace: Namespace) -> tuple[Service, ...]:
    """Return all that a principal outside the trusted account may publish into it."""
    plain = [*facts(principal, namespace)]
    if principal.role != "outsider":
        bucket = namespace.bucket(OBJECTS)
        plain += [f"$O.{bucket}.C.*", f"$O.{bucket}.M.*"]
    if "timer.set" in GRANTS[principal.role]:
        plain.append(namespace.wire(f"{ALARM}.*.>"))
    if "letter.dead" in GRANTS[principal.role]:
        plain += [namespace.wire(f"dead.{consumer}.>") for consumer in principal.consumers]
    stream = conversations_stream(namespace).name
    plain += [f"$JS.ACK.{stream}.{consumer}.>" for consumer in principal.consumers]
    return (
        *(Service(subject, subject) for subject in dict.fromkeys(plain)),
        *(Service(f"{API}.{op}", f"{IMPORTED_API}.{op}", s) for op, s in _operations(principal, namespace).items()),
    )


def _operations(principal: Principal, namespace: Namespace) -> dict[str, int]:
    """Return the operations of JetStream's API that the principal may call, and for how many seconds answers come."""
    if principal.role == "outsider":
        return {}
    stream = conversations_stream(namespace).name
    operations = {f"DIRECT.GET.{name}": _READ_S for name in (stream, objects_stream(namespace).name)}
    operations |= {f"STREAM.INFO.{name}": 0 for name in _streams(namespace)}
    if "letter.dead" in GRANTS[principal.role]:
        operations[f"DIRECT.GET.{dead_letters_stream(namespace).name}"] = _READ_S
    for consumer in principal.consumers:
        operations |= {f"CONSUMER.INFO.{stream}.{consumer}": 0, next_operation(stream, consumer): _PULL_S}
    if principal.role in _PEOPLE:
        operations[f"CONSUMER.LIST.{stream}"] = 0
    return operations


def _streams(namespace: Namespace) -> list[str]:
    kinds = (conversations_stream, timers_stream, dead_letters_stream, objects_stream)
    return [make(namespace).name for make in kinds]


def permissions(principal: Principal, namespace: Namespace) -> dict[str, Any]:
    """Return the user's permissions, as nats-server's configuration names them."""
    signals = {name: namespace.wire(name) for name in (ROLL_CALL, DRAINS, SHOWN, ENDED)}
    if principal.role == "operator":
        publish = [*facts(principal, namespace), f"{API}.>", f"$O.{namespace.bucket(OBJECTS)}.>", signals[DRAINS]]
    else:
        publish = [service.local for service in services(principal, namespace)]
    listen = [f"{principal.inbox_prefix}.>"]
    if principal.role != "outsider":
        listen.append(signals[ENDED])
    if principal.role in _PEOPLE:
        publish.append(signals[ROLL_CALL])
        listen.append(namespace.wire(EVERYTHING))
    if principal.role in _AGENTS:
        listen += [signals[ROLL_CALL], signals[DRAINS]]
    if principal.role == "orchestrator":
        publish.append(signals[ENDED])
        listen.append(signals[SHOWN])
    if principal.role == "outsider":
        publish.append(signals[SHOWN])
    found: dict[str, Any] = {"publish": {"allow": publish}, "subscribe": {"allow": listen}}
    if principal.role in _AGENTS:
        found["allow_responses"] = {"max": 1, "expires": "5s"}
    return found


def accounts(principals: Sequence[Principal], namespace: Namespace, keys: dict[str, str]) -> dict[str, Any]:
    """Return the `accounts` of nats-server's configuration. `keys` holds the public nkey of each principal's name.

    Raises `InvalidInputError` for a name that is no token.
    """
    found: dict[str, dict[str, Any]] = {TRUSTED: {"jetstream": "enabled", "users": [], "exports": [], "imports": []}}
    for principal in principals:
        check_token(principal.name, "name")
        account = found.setdefault(principal.account, {"users": [], "exports": [], "imports": []})
        account["users"].append({"nkey": keys[principal.name], "permissions": permissions(principal, namespace)})
        account["imports"] += _imports(principal, principals, namespace)
        account["exports"] += _offers(principal, principals, namespace)
        if principal.role == "outsider":
            account["limits"] = _OUTSIDERS_LIMITS
    found[TRUSTED]["exports"] += _exports(principals, namespace)
    return found


def _imports(principal: Principal, principals: Sequence[Principal], namespace: Namespace) -> list[dict[str, Any]]:
    imports: list[dict[str, Any]] = []
    if principal.role != "operator":
        for service in services(principal, namespace):
            source = {"service": {"account": TRUSTED, "subject": service.subject}}
            imports.append(source if service.local == service.subject else {**source, "to": service.local})
    for other in principals:
        if other.account == principal.account:
            continue
        if principal.role in _PEOPLE and other.role in _AGENTS:
            imports.append({"service": {"account": other.account, "subject": namespace.wire(ROLL_CALL)}})
        if principal.role in _WATCHERS:
            imports += [{"stream": {"account": other.account, "subject": name}} for name in facts(other, namespace)]
        if principal.role == "operator" and other.role in _AGENTS:
            imports.append({"service": {"account": other.account, "subject": namespace.wire(DRAINS)}})
        if other.role == "orchestrator" and principal.role == "outsider":
            imports.append({"service": {"account": other.account, "subject": namespace.wire(SHOWN)}})
        if other.role == "orchestrator" and principal.role != "outsider":
            imports.append({"stream": {"account": other.account, "subject": namespace.wire(ENDED)}})
    return imports


def _offers(principal: Principal, principals: Sequence[Principal], namespace: Namespace) -> list[dict[str, Any]]:
    """Return what a principal's account offers to the others: answers, word of ends, and what it says as it says it.

    The server does not hand on what came into the trusted account by an import; whoever watches hears it at its source.
    """
    watchers = _named((one for one in principals if one.role in _WATCHERS), principal)
    offers: list[dict[str, Any]] = [{"stream": name, "accounts": watchers} for name in facts(principal, namespace)]
    if principal.role in _AGENTS:
        people = _named((one for one in principals if one.role in _PEOPLE), principal)
        operators = _named((one for one in principals if one.role == "operator"), principal)
        offers.append({"service": namespace.wire(ROLL_CALL), "response_type": "stream", "accounts": people})
        offers.append({"service": namespace.wire(DRAINS), "accounts": operators})
    if principal.role == "orchestrator":
        outsiders = _named((one for one in principals if one.role == "outsider"), principal)
        insiders = _named((one for one in principals if one.role != "outsider"), principal)
        offers.append({"service": namespace.wire(SHOWN), "accounts": outsiders})
        offers.append({"stream": namespace.wire(ENDED), "accounts": insiders})
    return [offer for offer in offers if offer["accounts"]]


def _exports(principals: Sequence[Principal], namespace: Namespace) -> list[dict[str, Any]]:
    """Return what the trusted account offers, and to whom: no more than somebody imports."""
    strangers = [principal for principal in principals if principal.role != "operator"]
    served: dict[str, tuple[int, list[str]]] = {}
    for principal in strangers:
        for service in services(principal, namespace):
            served.setdefault(service.subject, (service.answers_s, []))[1].append(principal.account)
    exports: list[dict[str, Any]] = []
    for subject, (answers_s, named) in sorted(served.items()):
        export: dict[str, Any] = {"service": subject, "accounts": named}
        many = {"response_type": "stream", "threshold": f"{answers_s}s"}
        exports.append({**export, **many} if answers_s else export)
    return exports


def _named(principals: Iterable[Principal], but: Principal) -> list[str]:
    return list(dict.fromkeys(one.account for one in principals if one.account != but.account))
