"""The SDK: an agent is a name and the handlers it registers; the runtime brings everything else."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from motet_bus.asking import Document
from motet_bus.bus import Bus
from motet_bus.claims import DEFAULT_TTL_S
from motet_bus.consumer import Consumer, ConsumerSettings
from motet_bus.crashpoints import CrashPoint, no_crash
from motet_bus.event_runner import Context, EventRunner
from motet_bus.grants import Role
from motet_bus.outcome import Outcome, Step
from motet_bus.reconciler import Decide, Reconciler
from motet_bus.step_runner import StepHandler, StepRunner
from motet_schemas import EVENTS, InvalidInputError, check_token
from motet_schemas.subjects import capability_filter, kind_filter

StepFunction = TypeVar("StepFunction", bound=Callable[[Step], Awaitable[Outcome]])
EventFunction = TypeVar("EventFunction", bound=Callable[[Any, Context], Awaitable[None]])

_LONGEST_NAME: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How the agent's consumers run here; the defaults are for production."""

    claim_ttl_s: float = DEFAULT_TTL_S
    ack_wait_s: float = 10.0
    crash: CrashPoint = no_crash


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One handler of an agent: what it listens to, and how its consumer is built on a bus."""

    durable: str
    filters: tuple[str, ...]
    concurrency: int
    batch: int
    capability: str | None
    max_tries: int
    build: Callable[[Bus, RunOptions], StepRunner | EventRunner | Reconciler]

    def consumer(self, bus: Bus, options: RunOptions) -> Consumer:
        """Return the consumer that feeds this handler."""
        settings = ConsumerSettings(
            durable=self.durable,
            filters=self.filters,
            concurrency=self.concurrency,
            batch=self.batch,
            max_tries=self.max_tries,
            ack_wait_s=options.ack_wait_s,
        )
        return Consumer(bus, settings, self.build(bus, options), crash=options.crash)


class Agent:
    """An independent process on the bus. Register handlers, then run it with `motet agent module:agent`."""

    def __init__(self, name: str, *, role: Role = "specialist") -> None:
        """`name` is a token; it names the consumers of `on`. Raises `InvalidInputError` when it is not safe."""
        self.name = check_token(name, "name")
        self.role: Role = role
        self.registrations: list[Registration] = []
        self.document: Document | None = None

    def step(self, capability: str, *, concurrency: int = 1) -> Callable[[StepFunction], StepFunction]:
        """Serve `capability`: the decorated coroutine function gets a `Step` and returns an `Outcome`.

        `concurrency` steps at most run at the same time in this process. An exception becomes a failed attempt, which
        is tried again; a `PermanentError` is not, a human is asked. Raises `InvalidInputError` for a function that
        cannot be a handler.
        """
        _check_concurrency(concurrency)
        filters = (capability_filter(capability),)
        durable = step_consumer(capability)

        def register(function: StepFunction) -> StepFunction:
            _check_handler(function, ("step",), {"step": Step, "return": Outcome})
            handler: StepHandler = function

            def build(bus: Bus, options: RunOptions) -> StepRunner:
                return StepRunner(bus, capability, handler, claim_ttl_s=options.claim_ttl_s, crash=options.crash)

            self._register(durable, filters, concurrency=concurrency, batch=0, capability=capability, build=build)
            return function

        return register

    def on(
        self, *kinds: str, concurrency: int = 1, name: str | None = None, max_tries: int = 5
    ) -> Callable[[EventFunction], EventFunction]:
        """Handle every event of these kinds: the decorated coroutine function gets its data and a `Context`.

        What it hands to `context.emit` is recorded once, when it returns; if it raises, nothing is, and the event comes
        again with a backoff, `max_tries` times in all, then it goes to the dead letters. The consumer is called after
        the agent and the kinds, or after `name`. Raises `InvalidInputError` for a function that cannot be a handler.
        """
        _check_concurrency(concurrency)
        if not kinds:
            raise InvalidInputError("on: name at least one kind of event, for example on('verify.failed')", field="on")
        filters = tuple(kind_filter(kind) for kind in kinds)
        durable = _consumer_name(name or "-".join([self.name, *kinds]).replace(".", "-"))

        def register(function: EventFunction) -> EventFunction:
            allowed = [EVENTS[kind] for kind in kinds]
            _check_handler(function, ("event", "context"), {"context": Context, "return": type(None)})
            _check_event_type(function, allowed)

            def build(bus: Bus, options: RunOptions) -> EventRunner:
                return EventRunner(bus, durable, function, crash=options.crash)

            self._register(
                durable, filters, concurrency=concurrency, batch=concurrency, max_tries=max_tries, build=build
            )
            return function

        return register

    def reconcile(self, *kinds: str, decide: Decide, concurrency: int = 16) -> None:
        """Decide anew on a conversation after each event of these kinds; for the orchestrator."""
        filters = tuple(kind_filter(kind) for kind in kinds)
        durable = self.name

        def build(bus: Bus, options: RunOptions) -> Reconciler:
            return Reconciler(bus, decide, consumer=durable, crash=options.crash)

        self._register(durable, filters, concurrency=concurrency, batch=concurrency, build=build)

    def shows(self, document: Document) -> None:
        """Answer those who may not read the stream, and ask how a conversation stands; for the orchestrator."""
        self.document = document

    def _register(
        self,
        durable: str,
        filters: tuple[str, ...],
        *,
        concurrency: int,
        batch: int,
        build: Callable[[Bus, RunOptions], StepRunner | EventRunner | Reconciler],
        capability: str | None = None,
        max_tries: int = 5,
    ) -> None:
        if any(known.durable == durable for known in self.registrations):
            raise InvalidInputError(f"{durable}: this agent has a handler for that already", field="durable")
        self.registrations.append(
            Registration(
                durable=durable,
                filters=filters,
                concurrency=concurrency,
                batch=batch,
                capability=capability,
                max_tries=max_tries,
                build=build,
            )
        )


def step_consumer(capability: str) -> str:
    """Return the durable consumer of all who serve `capability`. Raises `InvalidInputError` for an unsafe name."""
    return _consumer_name(f"step-{capability}")


def _consumer_name(name: str) -> str:
    if len(name) > _LONGEST_NAME or not all((part.isascii() and part.isalnum()) or part in "_-" for part in name):
        raise InvalidInputError(
            f"name: {name!r} cannot name a consumer; use 1 to {_LONGEST_NAME} letters, digits, '_' or '-'",
            field="name",
            value=name,
        )
    return name


def _check_concurrency(concurrency: int) -> None:
    if not 1 <= concurrency <= 1_000:
        raise InvalidInputError(
            f"concurrency: {concurrency} is not between 1 and 1000", field="concurrency", value=concurrency
        )


def _check_handler(function: Callable[..., object], names: tuple[str, ...], expected: dict[str, type]) -> None:
    """Raise `InvalidInputError` unless `function` is a coroutine function that takes and returns what it must."""
    shown = getattr(function, "__qualname__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise InvalidInputError(f"{shown}: a handler is a coroutine function; write `async def`", field="handler")
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    positional = all(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters)
    if len(parameters) != len(names) or not positional:
        raise InvalidInputError(
            f"{shown}: takes {len(parameters)} parameter(s); a handler takes {len(names)}: {', '.join(names)}",
            field="handler",
        )
    hints = _hints(function)
    for position, name in [*enumerate(names), (-1, "return")]:
        wanted = expected.get(name)
        found = hints.get("return" if position < 0 else parameters[position].name)
        if wanted is not None and found is not None and found is not wanted and found is not Any:
            raise InvalidInputError(
                f"{shown}: {name} is annotated {getattr(found, '__name__', found)}; it is a {wanted.__name__}",
                field="handler",
            )


def _check_event_type(function: Callable[..., object], allowed: list[type]) -> None:
    parameter = next(iter(inspect.signature(function).parameters))
    hint = _hints(function).get(parameter)
    if hint is None or hint is Any:
        return
    named = set(typing.get_args(hint)) or {hint}
    missing = [event.__name__ for event in allowed if not any(_accepts(one, event) for one in named)]
    if missing:
        shown = getattr(function, "__qualname__", repr(function))
        raise InvalidInputError(
            f"{shown}: {parameter} is annotated {getattr(hint, '__name__', hint)}, but the events bring "
            f"{', '.join(missing)}",
            field="handler",
        )


def _accepts(annotation: object, event: type) -> bool:
    return isinstance(annotation, type) and issubclass(event, annotation)


def _hints(function: Callable[..., object]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # an annotation that only type checkers can see: nothing to compare
        return {}
