"""The SDK's decorators: what cannot be a handler is refused when it is registered, by checkers and at run time."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mypy import api as mypy

from motet_bus import Agent, Context, Outcome, Step
from motet_schemas import (
    ExecutionRecord,
    InvalidInputError,
    MotetError,
    StepExecuted,
    TaskSubmitted,
    VerificationResult,
    VerifyFailed,
    VerifyPassed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence as OnlyForCheckers

ROOT = Path(__file__).parents[2]

Register = Callable[[Any], object]


def step() -> Register:
    return Agent("a").step("work")


def on(*kinds: str) -> Register:
    return Agent("a").on(*(kinds or ("verify.failed",)))


# What is accepted


def test_a_decorated_function_stays_what_it_was() -> None:
    async def work(step: Step) -> Outcome:
        return Outcome.passed(confidence=1.0)

    async def learn(event: VerifyFailed, context: Context) -> None: ...

    agent = Agent("a")
    assert agent.step("work", concurrency=3)(work) is work
    assert agent.on("verify.failed")(learn) is learn
    assert [one.durable for one in agent.registrations] == ["step-work", "a-verify-failed"]
    assert [one.capability for one in agent.registrations] == ["work", None]
    assert [one.concurrency for one in agent.registrations] == [3, 1]


def test_annotations_may_be_missing_or_wider_than_the_event() -> None:
    agent = Agent("a")

    @agent.step("one")
    async def no_annotations(step):  # type: ignore[no-untyped-def]
        return Outcome.passed(confidence=1.0)

    @agent.on("verify.failed", "verify.passed", name="base")
    async def base_class(event: VerificationResult, context: Context) -> None: ...

    @agent.on("verify.failed", "verify.passed", name="union")
    async def union(event: VerifyFailed | VerifyPassed, context: Context) -> None: ...

    @agent.on("verify.failed", name="anything")
    async def anything(event: Any, context: Context) -> None: ...

    @agent.on("step.executed", name="record")
    async def record(event: ExecutionRecord, context: Context, extra: int = 3) -> None: ...

    @agent.on("verify.failed", name="unseen")
    async def unseen(event: VerifyFailed, context: Context, more: OnlyForCheckers[int] = ()) -> None: ...

    assert len(agent.registrations) == 6


def test_methods_may_be_handlers() -> None:
    class Holder:
        async def work(self, step: Step) -> Outcome:
            return Outcome.passed(confidence=1.0)

    agent = Agent("a")
    agent.step("work")(Holder().work)
    assert len(agent.registrations) == 1


# What is refused


async def _good(step: Step) -> Outcome:
    return Outcome.passed(confidence=1.0)


def not_async(step: Step) -> Outcome:
    return Outcome.passed(confidence=1.0)


async def no_parameter() -> Outcome:
    return Outcome.passed(confidence=1.0)


async def two_parameters(step: Step, context: Context) -> Outcome:
    return Outcome.passed(confidence=1.0)


async def keyword_only(step: Step, *, database: str) -> Outcome:
    return Outcome.passed(confidence=1.0)


async def any_number(*steps: Step) -> Outcome:
    return Outcome.passed(confidence=1.0)


async def takes_text(step: str) -> Outcome:
    return Outcome.passed(confidence=1.0)


async def gives_text(step: Step) -> str:
    return "passed"


async def gives_nothing(step: Step) -> None:
    return None


async def generator(step: Step) -> Any:
    yield Outcome.passed(confidence=1.0)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (not_async, "async def"),
        (no_parameter, "takes 0"),
        (two_parameters, "takes 2"),
        (keyword_only, "takes"),
        (any_number, "takes 0"),
        (takes_text, "step is annotated str; it is a Step"),
        (gives_text, "return is annotated str; it is a Outcome"),
        (gives_nothing, "return is annotated NoneType"),
        (generator, "async def"),
        (functools.partial(not_async), "async def"),
        (Outcome, "async def"),
    ],
)
def test_what_cannot_do_a_step_is_refused_with_what_is_expected(function: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        step()(function)


async def event_alone(event: VerifyFailed) -> None: ...


async def other_event(event: VerifyPassed, context: Context) -> None: ...


async def half_of_the_events(event: VerifyFailed, context: Context) -> None: ...


async def wrong_context(event: VerifyFailed, context: str) -> None: ...


async def gives_something(event: VerifyFailed, context: Context) -> Outcome:
    return Outcome.passed(confidence=1.0)


def not_async_event(event: VerifyFailed, context: Context) -> None: ...


@pytest.mark.parametrize(
    ("kinds", "function", "words"),
    [
        (("verify.failed",), not_async_event, "async def"),
        (("verify.failed",), event_alone, "takes 1"),
        (("verify.failed",), other_event, "VerifyPassed.*bring VerifyFailed"),
        (("verify.failed", "verify.passed"), half_of_the_events, "bring VerifyPassed"),
        (("verify.failed",), wrong_context, "context is annotated str"),
        (("verify.failed",), gives_something, "return is annotated Outcome"),
    ],
)
def test_what_cannot_handle_an_event_is_refused_with_what_is_expected(
    kinds: tuple[str, ...], function: Any, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        on(*kinds)(function)


@pytest.mark.parametrize("kind", ["verify.fail", "handled", "verify", "*", "verify.>", ""])
def test_a_kind_of_event_that_does_not_exist_is_refused(kind: str) -> None:
    with pytest.raises(InvalidInputError, match="no event"):
        Agent("a").on(kind)


def test_no_kind_at_all_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one kind"):
        Agent("a").on()


@pytest.mark.parametrize("capability", ["", "a.b", "a*", "check links", "x" * 65, ">", "grüße"])
def test_a_capability_that_is_no_token_is_refused(capability: str) -> None:
    with pytest.raises(InvalidInputError, match="capability"):
        Agent("a").step(capability)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "*", "x" * 65, "grüße"])
def test_an_agent_name_that_is_no_token_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="name"):
        Agent(name)


@pytest.mark.parametrize("name", ["a.b", "a b", "*", "x" * 129, "grüße", "a\n"])
def test_a_consumer_name_that_the_server_or_a_subject_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="name"):
        Agent("a").on("verify.failed", name=name)


@pytest.mark.parametrize("concurrency", [0, -1, 1_001])
def test_a_concurrency_out_of_range_is_refused(concurrency: int) -> None:
    with pytest.raises(InvalidInputError, match="concurrency"):
        Agent("a").step("work", concurrency=concurrency)
    with pytest.raises(InvalidInputError, match="concurrency"):
        Agent("a").on("verify.failed", concurrency=concurrency)


def test_the_same_thing_twice_is_refused() -> None:
    agent = Agent("a")
    agent.step("work")(_good)
    with pytest.raises(InvalidInputError, match=r"step-work.*already"):
        agent.step("work")(_good)

    async def learn(event: VerifyFailed, context: Context) -> None: ...

    agent.on("verify.failed")(learn)
    with pytest.raises(InvalidInputError, match="already"):
        agent.on("verify.failed")(learn)
    assert len(agent.registrations) == 2


def test_a_refusal_is_an_error_of_ours_and_names_the_function() -> None:
    with pytest.raises(MotetError) as refused:
        step()(takes_text)
    assert "takes_text" in refused.value.message


# Type checkers refuse the same

WRONG = {
    "a step handler that is not async": """
        @agent.step("work")
        def work(step: Step) -> Outcome:
            return Outcome.passed(confidence=1.0)
    """,
    "a step handler that takes something else": """
        @agent.step("work")
        async def work(step: str) -> Outcome:
            return Outcome.passed(confidence=1.0)
    """,
    "a step handler that gives nothing": """
        @agent.step("work")
        async def work(step: Step) -> None:
            return None
    """,
    "a step handler that wants more": """
        @agent.step("work")
        async def work(step: Step, context: Context) -> Outcome:
            return Outcome.passed(confidence=1.0)
    """,
    "an event handler that is not async": """
        @agent.on("verify.failed")
        def learn(event: VerifyFailed, context: Context) -> None: ...
    """,
    "an event handler without a context": """
        @agent.on("verify.failed")
        async def learn(event: VerifyFailed) -> None: ...
    """,
    "an event handler that answers": """
        @agent.on("verify.failed")
        async def learn(event: VerifyFailed, context: Context) -> Outcome:
            return Outcome.passed(confidence=1.0)
    """,
    "a role that does not exist": """
        Agent("x", role="king")
    """,
    "an outcome without a confidence": """
        Outcome.passed()
    """,
    "an outcome with an unknown next action": """
        Outcome.failed(notes="x", next_action="continue")
    """,
}
PREAMBLE = """from __future__ import annotations
from motet_bus import Agent, Context, Outcome, Step
from motet_schemas import VerifyFailed
agent = Agent("typed")
"""
RIGHT = """
@agent.step("work", concurrency=2)
async def work(step: Step) -> Outcome:
    return Outcome.passed(confidence=None, evidence=["seen", {"type": "note", "content": step.id}])

@agent.on("verify.failed")
async def learn(event: VerifyFailed, context: Context) -> None:
    print(event.verdict, context.conversation)
"""


def test_what_is_wrong_fails_the_type_checker_and_what_is_right_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of mypy for all snippets: each wrong one must have an error of its own, the right one none."""
    import textwrap

    files = {"right": tmp_path / "right.py"}
    files["right"].write_text(PREAMBLE + RIGHT)
    for number, (name, snippet) in enumerate(WRONG.items()):
        files[name] = tmp_path / f"wrong_{number}.py"
        files[name].write_text(PREAMBLE + textwrap.dedent(snippet))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYPYPATH", "")
    arguments = ["--config-file", "pyproject.toml", "--python-executable", sys.executable, "--no-error-summary"]
    arguments += ["--cache-dir", str(ROOT / ".mypy_cache")]
    said, trouble, _ = mypy.run([*arguments, *map(str, files.values())])
    assert trouble == ""
    passed = [name for name, file in files.items() if f"{file.name}:" not in said]
    assert passed == ["right"], said


def test_a_class_hint_for_several_events_must_cover_each() -> None:
    async def both(event: StepExecuted | TaskSubmitted, context: Context) -> None: ...

    Agent("a").on("step.executed", "task.submitted")(both)
    with pytest.raises(InvalidInputError, match="TaskCancel"):
        Agent("a").on("step.executed", "task.cancel")(both)
