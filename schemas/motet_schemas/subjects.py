"""The only place where a subject is built or parsed.

A subject is a fact's identity: `<family>.<verb>.<conversation>.<detail…>`. The same fact can be written to the same
subject only once. A namespace, when there is one, is one more token in front, on the wire only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from motet_schemas.errors import InvalidInputError
from motet_schemas.ids import check_token
from motet_schemas.printing import cut

KINDS: Final[dict[str, int | tuple[int, int]]] = {
    "task.submitted": 1,
    "task.completed": 1,
    "task.failed": 1,
    "task.cancelled": 1,
    "task.cancel": 1,
    "task.archived": 1,
    "plan.requested": 1,
    "plan.created": 1,
    "plan.rejected": 1,
    "step.ready": 3,
    "step.claimed": 2,
    "step.renewed": 2,
    "step.executed": 2,
    "step.expired": 2,
    "verify.passed": 2,
    "verify.failed": 2,
    "escalate.raised": 1,
    "escalate.answered": 1,
    "escalate.timed_out": 1,
    "letter.dead": (1, 2),
    "letter.retried": (1, 2),
    "letter.discarded": (1, 2),
    "timer.set": (1, 4),
    "timer.fired": (1, 4),
}
"""Every kind of event and how many details follow its conversation. `handled.<consumer>` (one detail) joins them.

A letter is called `<consumer>.<sequence>`; Motet 0.1.0 said `<consumer>-<sequence>`, in one token.
"""

FAMILIES: Final = ("task", "plan", "step", "verify", "escalate", "letter", "timer", "handled")
ALARM: Final = "alarm"
"""The family of schedules that wait at the server: `alarm.<conversation>.<what>`."""
TICK: Final = "tick"
"""The family of schedules that have fired; the stream of conversations shows them as `timer.fired`."""
_RESERVED: Final = frozenset({*FAMILIES, ALARM, TICK, "ask", "dead", "signal"})
LONGEST_CONSUMER: Final = 128
_CONSUMER: Final = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Subject:
    """One parsed subject, without its namespace. Build it with the functions below; `parse` reads one."""

    family: str
    verb: str
    conversation: str
    detail: tuple[str, ...]

    @property
    def kind(self) -> str:
        """`<family>.<verb>`, for example `step.claimed`; `handled` for every record of a consumer."""
        return "handled" if self.family == "handled" else f"{self.family}.{self.verb}"

    @property
    def step(self) -> str:
        """The step id. Only for `step.…` and `verify.…` subjects; `ValueError` for others."""
        if self.family not in ("step", "verify"):
            raise ValueError(f"{self} speaks of no step")
        return self.detail[0]

    @property
    def number(self) -> int:
        """The attempt of a step, the revision of a plan, the number of an escalation; `ValueError` for others."""
        if self.family in ("step", "verify"):
            return int(self.detail[1])
        if self.family in ("plan", "escalate"):
            return int(self.detail[0])
        raise ValueError(f"{self} has no number")

    @property
    def letter(self) -> str:
        """A dead letter's name: `<consumer>-<sequence>`. Only for `letter.…` subjects; `ValueError` for others."""
        if self.family != "letter":
            raise ValueError(f"{self} speaks of no letter")
        return "-".join(self.detail)

    def __str__(self) -> str:
        return ".".join((self.family, self.verb, self.conversation, *self.detail))


def build(kind: str, conversation: str, *detail: str | int) -> Subject:
    """Return the subject of an event of `kind` (`step.claimed`, …).

    Raises `InvalidInputError` for an unknown kind, a wrong number of details or a token that is not safe.
    """
    family, _, verb = kind.partition(".")
    return _checked(family, verb, conversation, tuple(str(part) for part in detail))


def handled(consumer: str, conversation: str, cause: int) -> Subject:
    """Return the subject of the record of one run of `consumer` on the event with stream sequence `cause`."""
    return _checked("handled", consumer, conversation, (str(cause),))


def parse(text: str) -> Subject:
    """Parse a subject without namespace. Raises `InvalidInputError` when it is not one of ours."""
    tokens = text.split(".")
    if len(tokens) < 4:
        raise InvalidInputError(
            f"subject {cut(text, 200)!r}: needs <family>.<verb>.<conversation>.<detail>", field="subject", value=text
        )
    return _checked(tokens[0], tokens[1], tokens[2], tuple(tokens[3:]))


def _checked(family: str, verb: str, conversation: str, detail: tuple[str, ...]) -> Subject:
    if family == "handled":
        _check_consumer(verb)
        allowed: int | tuple[int, int] = 1
    elif (known := KINDS.get(f"{family}.{verb}")) is None:
        raise InvalidInputError(
            f"subject: there is no event {cut(f'{family}.{verb}', 200)!r}; known are {', '.join(KINDS)}",
            field="subject",
            value=f"{family}.{verb}",
        )
    else:
        allowed = known
    least, most = (allowed, allowed) if isinstance(allowed, int) else allowed
    check_token(conversation, "conversation")
    if not least <= len(detail) <= most:
        raise InvalidInputError(
            f"subject {family}.{verb}: takes {least if least == most else f'{least} to {most}'} token(s) "
            f"behind the conversation, not {len(detail)}",
            field="subject",
            value=".".join(detail),
        )
    for token in detail:
        if family == "letter":
            _check_consumer(token)
        else:
            check_token(token, f"{family}.{verb}")
    _check_number(family, verb, detail)
    return Subject(family, verb, conversation, detail)


def _check_consumer(token: str) -> None:
    """Consumers are named after capabilities and agents, and letters after consumers, so they may be longer."""
    if len(token) > LONGEST_CONSUMER or not _CONSUMER.fullmatch(token):
        raise InvalidInputError(
            f"consumer: {token[:80]!r} cannot be part of a subject; "
            f"use 1 to {LONGEST_CONSUMER} letters, digits, '_' or '-'",
            field="consumer",
            value=token,
            rule=_CONSUMER.pattern,
        )


def _check_number(family: str, verb: str, detail: tuple[str, ...]) -> None:
    if family in ("plan", "escalate", "handled") or (family, verb) == ("task", "archived"):
        text = detail[0]
    elif family in ("step", "verify") or (family == "letter" and len(detail) > 1):
        text = detail[1]
    else:
        return
    if not _NUMBER.fullmatch(text):
        raise InvalidInputError(
            f"subject {family}.{verb}: {text!r} is not a number from 1",
            field="subject",
            value=text,
            rule=_NUMBER.pattern,
        )


def alarm_of(timer: Subject) -> tuple[str, str]:
    """Return where a timer waits at the server, and where the server sends it when it fires."""
    tail = ".".join((timer.conversation, *timer.detail))
    return f"{ALARM}.{tail}", f"{TICK}.{tail}"


def conversation_filter(conversation: str) -> str:
    """Return the filter that matches every fact of one conversation."""
    return f"*.*.{check_token(conversation, 'conversation')}.>"


def attempt_filter(conversation: str, step: str, attempt: int) -> str:
    """Return the filter that matches the claim, renewals and outcome of one attempt (not its `step.ready`)."""
    return f"step.*.{conversation}.{step}.{attempt}"


def capability_filter(capability: str) -> str:
    """Return the filter that matches the steps that ask for `capability`."""
    return f"step.ready.*.*.*.{check_token(capability, 'capability')}"


def letter_filter(consumer: str, verb: str = "retried") -> str:
    """Return the filter that matches what was done with the dead letters of one consumer; its retries are for it."""
    _check_consumer(consumer)
    return f"letter.{verb}.*.{consumer}.*"


def matches(filter_: str, subject: str) -> bool:
    """Say whether a filter matches every subject that `subject`, itself a subject or a filter, stands for."""
    wanted, given = filter_.split("."), subject.split(".")
    for position, part in enumerate(wanted):
        if part == ">":
            return len(given) > position
        if position >= len(given) or given[position] == ">" or part not in ("*", given[position]):
            return False
    return len(wanted) == len(given)


class Filters:
    """Several filters: `subject in filters` says whether one of them matches it."""

    __slots__ = ("_names", "_prefixes")

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._prefixes = tuple(name[:-1] for name in self._names if name.endswith(".>") and "*" not in name)

    def __contains__(self, subject: str) -> bool:
        return subject.startswith(self._prefixes) or any(matches(name, subject) for name in self._names)


def kind_filter(kind: str) -> str:
    """Return the filter that matches every event of `kind`. Raises `InvalidInputError` for an unknown kind."""
    if kind not in KINDS:
        raise InvalidInputError(
            f"kind: there is no event {kind!r}; known are {', '.join(KINDS)}", field="kind", value=kind
        )
    return f"{kind}.>"


def kind_shape(kind: str, *, consumer: str = "*") -> str:
    """Return the filter that matches the subjects of `kind` and nothing that is none: `step.claimed.*.*.*`.

    For `handled` they are those of `consumer`. Raises `InvalidInputError` for an unknown kind.
    """
    if kind == "handled":
        return f"handled.{consumer}.*.*"
    kind_filter(kind)
    details = KINDS[kind]
    return f"{kind}.*{'.*' * details}" if isinstance(details, int) else f"{kind}.*.>"


@dataclass(frozen=True, slots=True)
class Namespace:
    """Puts all subjects and streams of one deployment under one token, or under none (the default)."""

    name: str = ""

    def __post_init__(self) -> None:
        if self.name:
            check_token(self.name, "namespace")
            if self.name in _RESERVED:
                raise InvalidInputError(
                    f"namespace: {self.name!r} is a family of subjects; choose another name",
                    field="namespace",
                    value=self.name,
                )

    def wire(self, subject: Subject | str) -> str:
        """Return a subject or filter as it stands on the wire."""
        return f"{self.name}.{subject}" if self.name else str(subject)

    def strip(self, wire: str) -> str:
        """Return a wire subject without the namespace. Raises `InvalidInputError` when it is not in it."""
        if not self.name:
            return wire
        prefix = f"{self.name}."
        if not wire.startswith(prefix):
            raise InvalidInputError(
                f"subject {cut(wire, 200)!r} is not in the namespace {self.name!r}", field="subject", value=wire
            )
        return wire[len(prefix) :]

    def parse(self, wire: str) -> Subject:
        """Parse a subject from the wire. Raises `InvalidInputError` when it is not one of ours."""
        return parse(self.strip(wire))

    def stream(self, name: str) -> str:
        """Return the name of a stream: `CONVERSATIONS`, or `team-a_CONVERSATIONS`."""
        return f"{self.name}_{name}" if self.name else name

    def bucket(self, name: str) -> str:
        """Return the name of an object bucket: `motet-objects`, or `team-a-motet-objects`."""
        return f"{self.name}-{name}" if self.name else name

    def families(self, families: Iterable[str] = FAMILIES) -> tuple[str, ...]:
        """Return the subjects a stream of these families listens to."""
        return tuple(self.wire(f"{family}.>") for family in families)
