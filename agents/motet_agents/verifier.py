"""The verifier: says gate by gate whether a record keeps its step's contract. Never the one who did the work."""

from __future__ import annotations

from motet_agents.gates import run_gates
from motet_agents.qa.preload import preload
from motet_bus import Agent, Context
from motet_schemas import (
    Manifest,
    PermanentError,
    StepExecuted,
    TransientError,
    VerificationResult,
    VerifyFailed,
    VerifyPassed,
)

preload()
agent = Agent("verifier", role="verifier")


@agent.on("step.executed", concurrency=8, name="verifier")
async def verify(event: StepExecuted, context: Context) -> None:
    """Record `verify.passed` or `verify.failed` for a record that claims to have passed; others need no verifying."""
    if event.status != "passed":
        return
    subject = context.subject
    if event.executor == context.instance:
        raise TransientError(f"{subject}: {context.instance} did this work itself; another verifier must look")
    handoff = await context.handoff()
    if handoff is None:
        raise PermanentError(f"{subject}: nobody handed this step out, so there is no contract to verify it by")
    step = handoff.step
    gates = await run_gates(step, await _materialized(step.manifest, context), event)
    passed = all(gate.passed for gate in gates)
    result = VerificationResult(
        verdict="passed" if passed else "failed",
        gates=gates,
        verifier=context.instance,
        rollback_note="nothing to undo" if not event.files_changed else f"restore {', '.join(event.files_changed)}",
    )
    if passed:
        context.emit("verify.passed", *subject.detail, data=VerifyPassed(**dict(result)))
    else:
        context.emit("verify.failed", *subject.detail, data=VerifyFailed(**dict(result)))


async def _materialized(manifest: Manifest, context: Context) -> Manifest:
    """Return the manifest with its referenced texts among its inputs."""
    fetched = await context.fetch_texts(manifest.references)
    return manifest.evolve(inputs={**manifest.inputs, **fetched})
