"""Made up by chance: plans as a planner might make them, and rubbish as an outsider might write it."""

from __future__ import annotations

from random import Random

from motet_schemas import ANY_LIMITS, Budget, PlanCreated, PlanStep, Policy, Subject, limits_context
from motet_schemas.standing import is_done
from motet_schemas.subjects import build
from tests.agents.orchestrator.memory_stream import MemoryStream
from tests.schemas.samples import step


def make_plan(stream: MemoryStream, policy: Policy, revision: int, rng: Random) -> PlanCreated:
    """A random graph that keeps what is done; now and then an id is used again, perhaps for something else."""
    state = stream.load()
    old = state.plan
    kept = [one for one in old.steps if is_done(state, one)] if old else []
    if old and rng.random() < 0.3:
        kept = list(old.steps)
    new: list[PlanStep] = []
    for position in range(rng.randint(0 if kept else 1, 3)):
        before = [one.id for one in (*kept, *new) if rng.random() < 0.5]
        name = f"s{position}" if rng.random() < 0.2 else f"r{revision}s{position}"
        if name not in {one.id for one in (*kept, *new)}:
            attempts, confidence = rng.randint(1, 2), rng.choice([0.0, 0.5])
            new.append(step(name, *before, max_attempts=attempts, min_confidence=confidence, time_budget_s=10))
    steps = (*kept, *new) or (step("s0", max_attempts=1, time_budget_s=10),)
    least = sum(one.max_attempts for one in steps)
    limits = {"max_attempts": least + rng.randint(0, 2), "max_tokens": 5_000, "time_budget_s": 900}
    budget = Budget.model_validate(limits, context=limits_context(ANY_LIMITS))
    return PlanCreated(steps=steps, budget=budget, policy=policy)


def rubbish(rng: Random, steps: list[str]) -> tuple[Subject, bytes]:
    """A subject of any kind that may matter to the conversation, and a body that never parses."""
    number, name = rng.choice([1, 1, 2, 3, 10**18 - 1]), rng.choice([*steps, *steps, "s0", "unknown"])
    choices = {
        "task": [
            build(f"task.{verb}", "c", "content-qa") for verb in ("submitted", "completed", "failed", "cancelled")
        ],
        "plan": [build(f"plan.{verb}", "c", number) for verb in ("requested", "created", "rejected")],
        "ready": [build("step.ready", "c", name, number, capability) for capability in ("qa", "nobody")],
        "step": [build(f"step.{verb}", "c", name, number) for verb in ("claimed", "renewed", "executed", "expired")],
        "verify": [build(f"verify.{verb}", "c", name, number) for verb in ("passed", "failed")],
        "escalate": [build(f"escalate.{verb}", "c", number) for verb in ("raised", "answered", "timed_out")],
        "letter": [build(f"letter.{verb}", "c", f"x-{number}") for verb in ("dead", "retried", "discarded")],
        "timer": [
            build(f"timer.{verb}", "c", *detail)
            for verb in ("set", "fired")
            for detail in (("budget", number), ("escalation", 1, number), ("backoff", name, 1, number))
        ],
    }
    return rng.choice(choices[rng.choice(sorted(choices))]), b"rubbish"
