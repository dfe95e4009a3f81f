"""Records `every-kind.jsonl`: one conversation in which every kind of event occurs, large bodies by reference.

`python -m tests.schemas.record_every_kind`. Never overwrites it: what an earlier version wrote stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Final

from motet_schemas import Contract, Event, Fact, fold_all
from motet_schemas.envelope import BODY_REFERENCE
from motet_schemas.subjects import build
from motet_schemas.task import Reference
from tests.schemas.histories import FOLDER, amounts_to, line_of, read
from tests.schemas.samples import (
    SAMPLES,
    Story,
    answer,
    plan,
    raised,
    ready,
    refused,
    step,
)

_BY_REFERENCE: Final = frozenset({"task.submitted", "plan.created", "step.executed", "handled"})


def _story() -> Story:
    """Tell a conversation with a refused plan, a failed verification, a lost claim, letters, questions and timers."""
    tone = step("tone", max_attempts=3)
    story = Story().submitted(owner="ann").add("timer.set", "budget", 1, data=SAMPLES["timer.set"][1])
    story.add("plan.requested", 1, data=SAMPLES["plan.requested"][1])
    story.add("plan.rejected", 1, data=SAMPLES["plan.rejected"][1])
    story.add("escalate.raised", 1, data=raised(reason="plan_rejected", step=None, attempt=1))
    story.add("escalate.answered", 1, data=answer("revise", instructions="try again"))
    story.planned(plan(tone), 2).opened(tone).claimed(tone)
    story.add("step.renewed", "tone", 1, data=SAMPLES["step.renewed"][1])
    story.executed(tone).add("verify.failed", "tone", 1, data=refused("no"))
    story.opened(tone, 2).claimed(tone, 2, nonce="another-nonce").lost(tone, 2)
    for number in (7, 8):
        story.add("letter.dead", "learn", number, data=SAMPLES["letter.dead"][1])
    story.add("letter.retried", "learn", 7, data=SAMPLES["letter.retried"][1])
    story.add("letter.discarded", "learn", 8, data=SAMPLES["letter.discarded"][1])
    story.add("escalate.raised", 2, data=raised())
    story.add("escalate.timed_out", 2, data=SAMPLES["escalate.timed_out"][1])
    story.add("timer.fired", "budget", 1, data=SAMPLES["timer.fired"][1])
    story.decided(*_listed()).done(tone, 3)
    story.add("task.cancel", "ann", data=SAMPLES["task.cancel"][1])
    for kind in ("task.completed", "task.failed", "task.cancelled", "task.archived"):
        story.add(kind, *SAMPLES[kind][0], data=SAMPLES[kind][1])
    return story


def _listed() -> list[Fact]:
    return [Fact(build("step.ready", "c", "tone", 3, "qa"), ready(step("tone", max_attempts=3), 3))]


def _line(event: Event) -> str:
    assert isinstance(event.data, Contract)
    body = event.data.to_json()
    if event.kind not in _BY_REFERENCE:
        return line_of(event, body)
    digest = hashlib.sha256(body).hexdigest()
    reference = Reference(name=digest, sha256=digest, size_bytes=len(body), media_type="application/json")
    fields = json.loads(line_of(event, reference.to_json()))
    fields["headers"][BODY_REFERENCE] = "1"
    return json.dumps({**fields, "object": body.decode()}, ensure_ascii=False)


def main() -> None:
    """Write the history and what it amounts to, unless it is there."""
    path = FOLDER / "every-kind.jsonl"
    if path.exists():
        sys.exit(f"{path} is there, and stays as it is")
    path.write_text("".join(f"{_line(event)}\n" for event in _story().events), encoding="utf-8")
    events = read(path)
    told = json.dumps(amounts_to(fold_all("c", events), events), indent=2)
    path.with_suffix(".expected.json").write_text(f"{told}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
