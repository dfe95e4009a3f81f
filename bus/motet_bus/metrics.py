"""What the bus counts: each fact once, by the process that recorded it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import lru_cache, wraps
from time import perf_counter
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

from motet_bus import conventions as c
from motet_bus import instruments as names
from motet_bus.meter import Labels, bounded, counter, histogram, labels
from motet_schemas import (
    ConflictError,
    Fact,
    PlanCreated,
    PlanRejected,
    StepExecuted,
    Usage,
    VerifyFailed,
    VerifyPassed,
)
from motet_schemas.report import RULE_BASED
from motet_schemas.work import Status

Writer = TypeVar("Writer")
Given = ParamSpec("Given")

_steps = counter(names.STEPS)
_step_duration = histogram(names.STEP_DURATION)
_step_confidence = histogram(names.STEP_CONFIDENCE)
_tool_calls = counter(names.TOOL_CALLS)
_claims = counter(names.CLAIMS)
_claims_live = counter(names.CLAIMS_LIVE)
_tokens = counter(names.TOKENS)
_cost = counter(names.COST)
_gen_ai_tokens = histogram(names.GEN_AI_TOKENS)
_errors = counter(names.ERRORS)
_redeliveries = counter(names.REDELIVERIES)
_dead_letters = counter(names.DEAD_LETTERS)
_conflicts = counter(names.COMMIT_CONFLICTS)
_process_duration = histogram(names.PROCESS_DURATION)
_consumed = counter(names.CONSUMED)
_sent = counter(names.SENT)
_publish_duration = histogram(names.PUBLISH_DURATION)


# Messages


class _Timed:
    """A context that tells `done` how many seconds it took, and which exception ended it."""

    __slots__ = ("_done", "_started")

    def __init__(self, done: Callable[[float, BaseException | None], None]) -> None:
        self._done = done
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._done(perf_counter() - self._started, error)


def counted(
    append: Callable[Concatenate[Writer, Fact, Given], Coroutine[Any, Any, int]],
) -> Callable[Concatenate[Writer, Fact, Given], Coroutine[Any, Any, int]]:
    """Time and count what a journal appends; a fact that a fence keeps out is a conflict."""

    @wraps(append)
    async def timed(writer: Writer, fact: Fact, /, *args: Given.args, **kwargs: Given.kwargs) -> int:
        started = perf_counter()
        kind, failure = fact.subject.kind, ""
        try:
            return await append(writer, fact, *args, **kwargs)
        except Exception as error:
            failure = error_type(error)
            if isinstance(error, ConflictError):
                _conflicts.add(1, labels(("kind", kind)))
            raise
        finally:
            told = _published(kind, failure)
            _sent.add(1, told)
            _publish_duration.record(perf_counter() - started, told)

    return timed


@lru_cache(maxsize=1_024)
def _published(kind: str, error: str) -> Labels:
    return labels(
        (c.SYSTEM, c.NATS), (c.OPERATION_NAME, c.PUBLISH), (c.DESTINATION_TEMPLATE, kind), (c.ERROR_TYPE, error)
    )


def processing(kind: str, consumer: str) -> _Timed:
    """Time the handling of one delivered message; what a stop interrupts is left out."""

    def done(seconds: float, error: BaseException | None) -> None:
        if error is None or isinstance(error, Exception):
            _process_duration.record(seconds, _processed(kind, consumer, "" if error is None else error_type(error)))

    _consumed.add(1, _processed(kind, consumer, ""))
    return _Timed(done)


@lru_cache(maxsize=1_024)
def _processed(kind: str, consumer: str, error: str) -> Labels:
    return labels(
        (c.SYSTEM, c.NATS),
        (c.OPERATION_NAME, c.PROCESS),
        (c.DESTINATION_TEMPLATE, kind),
        (c.CONSUMER_GROUP, consumer),
        (c.ERROR_TYPE, error),
    )


def error_type(error: BaseException) -> str:
    """Return an error's class as a label."""
    return bounded(c.ERROR_TYPE, type(error).__qualname__)


def received(consumer: str, deliveries: int) -> None:
    """Count a delivery that is not the first."""
    if deliveries > 1:
        _redeliveries.add(1, labels((names.CONSUMER, consumer)))


def failed(consumer: str, error: BaseException) -> None:
    """Count a message or an attempt that failed here."""
    _errors.add(1, labels((names.CONSUMER, consumer), (c.ERROR_TYPE, error_type(error))))


def buried(consumer: str) -> None:
    """Count a dead letter that was stored."""
    _dead_letters.add(1, labels((names.CONSUMER, consumer)))


def zeros(consumer: str, capability: str | None, kinds: Iterable[str]) -> None:
    """Show what has not happened yet as 0, so that a first time is seen as a rise."""
    for one in (_redeliveries, _dead_letters):
        one.add(0, labels((names.CONSUMER, consumer)))
    for kind in kinds:
        _conflicts.add(0, labels(("kind", kind)))
    if capability is None:
        return
    _claims_live.add(0, labels((names.CAPABILITY, capability)))
    _tool_calls.add(0, labels((names.CAPABILITY, capability), ("tool", "command")))
    for event in ("taken", "released", "lost", "expired"):
        _claims.add(0, labels((names.CAPABILITY, capability), ("event", event)))
    for outcome in get_args(Status):
        _steps.add(0, labels((names.CAPABILITY, capability), ("outcome", outcome)))


# Work


def claimed(capability: str) -> None:
    """Count a claim that was taken; `let_go` ends it."""
    _claims_live.add(1, labels((names.CAPABILITY, capability)))
    claim(capability, "taken")


def let_go(capability: str) -> None:
    """Count down the claims that this process holds."""
    _claims_live.add(-1, labels((names.CAPABILITY, capability)))


def claim(capability: str, event: str) -> None:
    """Count what became of a claim: released, lost to somebody else, expired."""
    _claims.add(1, labels((names.CAPABILITY, bounded(names.CAPABILITY, capability)), ("event", event)))


def executed(capability: str, record: StepExecuted) -> None:
    """Count an attempt whose record was accepted."""
    told = labels((names.CAPABILITY, capability), ("outcome", record.status))
    _steps.add(1, told)
    _step_duration.record(record.elapsed_ms / 1_000, told)
    if record.confidence is not None:
        _step_confidence.record(record.confidence, labels((names.CAPABILITY, capability)))
    if record.commands_run:
        _tool_calls.add(len(record.commands_run), labels((names.CAPABILITY, capability), ("tool", "command")))
    used("step", record.usage, record.model, capability)


def used(work: str, usage: Usage, model: str | None, capability: str = "") -> None:
    """Count tokens and cost of a plan, a step or a verification, as far as they are known."""
    shown = bounded("model", model or "unknown")
    common = (("work", work), (names.CAPABILITY, capability), ("model", shown))
    for direction, tokens in (("input", usage.tokens_in), ("output", usage.tokens_out)):
        if tokens is None:
            continue
        _tokens.add(tokens, labels(*common, ("direction", direction)))
        if model and model != RULE_BASED:
            _gen_ai_tokens.record(tokens, _invoked(shown, direction))
    if usage.cost_usd is not None:
        _cost.add(usage.cost_usd, labels(*common))


@lru_cache(maxsize=1_024)
def _invoked(model: str, direction: str) -> Labels:
    provider, _, name = model.rpartition(":")
    return labels(
        (c.GEN_AI_OPERATION, c.INVOKE_AGENT),
        (c.GEN_AI_PROVIDER, provider or "unknown"),
        (c.GEN_AI_REQUEST_MODEL, name),
        (names.TOKEN_TYPE, direction),
    )


def recorded(fact: Fact) -> None:
    """Count what a plan or a verification used, once its fact is committed."""
    match fact.data:
        case PlanCreated(usage=usage, model=model):
            used("plan", usage, model)
        case PlanRejected(usage=usage):
            used("plan", usage, None)
        case VerifyPassed(usage=usage, model=model) | VerifyFailed(usage=usage, model=model):
            used("verify", usage, model)
        case _:
            pass
