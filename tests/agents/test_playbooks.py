"""Playbooks: what is wrong with one is said with file, place and rule; what is right makes a plan that fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet_agents.playbooks import Playbook, load_playbooks
from motet_agents.playbooks.loading import read_playbook
from motet_schemas import Budget, BudgetOverride, InvalidInputError, Plan, PolicyOverride, Reference, SchemaGate, Task

STEPS = """
name: try
capabilities: [work, look]
policy: {min_confidence: 0.6}
plan:
  - {id: a, capability: work, goal: begin, max_attempts: 3, manifest: {objective: done}}
  - {id: b, capability: look, goal: look, depends_on: [a], min_confidence: 0.9, manifest: {objective: seen}}
"""
TASK = Task(kind="try")


def write(folder: Path, text: str | bytes, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def playbook(**changes: object) -> Playbook:
    return read_playbook(STEPS, "try.yaml").evolve(**changes)


# Loading


def test_content_qa_ships_with_motet() -> None:
    shipped = load_playbooks()["content-qa"]
    assert {step.id for step in shipped.plan} == {"tone", "compliance", "links"}
    assert shipped.inputs == ("draft",)


def test_a_users_playbook_joins_those_that_ship_and_replaces_one_of_the_same_name(tmp_path: Path) -> None:
    write(tmp_path, STEPS)
    write(tmp_path, STEPS.replace("name: try", "name: content-qa"), "other.yml")
    write(tmp_path, "not: a playbook", "notes.txt")
    found = load_playbooks([tmp_path])
    assert set(found) >= {"try", "content-qa"}
    assert {step.id for step in found["content-qa"].plan} == {"a", "b"}
    assert {step.id for step in load_playbooks()["content-qa"].plan} == {"tone", "compliance", "links"}


def test_a_later_folder_counts_more(tmp_path: Path) -> None:
    for name, goal in (("one", "first"), ("two", "second")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, STEPS.replace("goal: begin", f"goal: {goal}"))
    assert load_playbooks([tmp_path / "one", tmp_path / "two"])["try"].plan[0].goal == "second"


def test_a_playbook_that_was_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, STEPS)
    assert load_playbooks([tmp_path])["try"].plan[0].goal == "begin"
    path.write_text(STEPS.replace("goal: begin", "goal: begin anew"))
    assert load_playbooks([tmp_path])["try"].plan[0].goal == "begin anew"


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="nowhere"):
        load_playbooks([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [\n", r"mine\.yaml: invalid YAML at line 2, column 1"),
        ("name: try\nplan: {a: b: c}\n", r"mine\.yaml: invalid YAML at line 2, column \d+"),
        ("- a\n- b\n", "a playbook is a mapping"),
        ("", "a playbook is a mapping"),
        (b"name: caf\xe9\n", r"mine\.yaml.*cannot be read"),
        (b"name: a\x00b\n", r"mine\.yaml"),
        (STEPS.replace("depends_on", "depend_on"), "did you mean 'depends_on'"),
        (STEPS.replace("capabilities:", "capabilites:"), "did you mean 'capabilities'"),
        (STEPS.replace("objective: done", "objective: done, constraint: []"), "did you mean 'constraints'"),
        (STEPS + "limits: {max_attempt: [1, 20]}\n", "did you mean 'max_attempts'"),
        (STEPS + "limits: 3\n", "limits"),
        (STEPS + "planner: think\n", "plan .*planner"),
        ("name: try\n", "plan .*planner"),
        (STEPS.replace("id: b", "id: a"), "duplicate id a"),
        (STEPS.replace("id: b", "id: b.c"), r"id"),
        (STEPS.replace("goal: begin", "goal: begin, depends_on: [b]"), "cycle: .*a.*b|cycle: .*b.*a"),
        (STEPS.replace("depends_on: [a]", "depends_on: [z]"), "z.*no step"),
        (STEPS.replace("capability: look", "capability: lokk"), "'lokk' is not among the capabilities"),
        (STEPS.replace("max_attempts: 3", "max_attempts: 9"), "max_attempts"),
        (STEPS.replace("max_attempts: 3", "max_attempts: two"), "max_attempts"),
        (STEPS + "budget: {max_attempts: 11}\n", "max_attempts is 11; it must be 1 to 10"),
        (STEPS.replace("min_confidence: 0.6", "min_confidence: 1.6"), "min_confidence"),
        (STEPS.replace("name: try", "name: my playbook"), "name"),
        (STEPS + "gates: [{kind: oracle}]\n", "gates"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_place(tmp_path: Path, text: str | bytes, words: str) -> None:
    write(tmp_path, text)
    with pytest.raises(InvalidInputError, match=words) as refused:
        load_playbooks([tmp_path])
    assert "mine.yaml" in refused.value.message


def test_a_playbook_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InvalidInputError, match=r"folder\.yaml"):
        load_playbooks([tmp_path])


def test_a_playbook_that_is_too_large_is_named(tmp_path: Path) -> None:
    write(tmp_path, STEPS + "#" * (1 << 20))
    with pytest.raises(InvalidInputError, match=r"mine\.yaml is larger than 1 MiB"):
        load_playbooks([tmp_path])


# Making a plan


def test_a_plan_says_who_made_it_and_by_what() -> None:
    plan = playbook().make_plan(TASK, planner="me")
    assert (plan.planner, plan.model) == ("me", "rule-based")
    assert [step.id for step in plan.steps] == ["a", "b"]
    assert plan.usage.tokens == 0


def test_thresholds_come_from_the_task_then_the_step_then_the_policy() -> None:
    assert [step.min_confidence for step in playbook().make_plan(TASK).steps] == [0.6, 0.9]
    strict = TASK.evolve(policy=PolicyOverride(min_confidence=0.95))
    assert [step.min_confidence for step in playbook().make_plan(strict).steps] == [0.95, 0.95]
    trusting = TASK.evolve(policy=PolicyOverride(min_confidence=0.0))
    assert [step.min_confidence for step in playbook().make_plan(trusting).steps] == [0.0, 0.0]


def test_a_tasks_policy_and_budget_override_the_playbooks() -> None:
    task = TASK.evolve(
        policy=PolicyOverride(max_parallel=1, on_timeout="approve"),
        budget=BudgetOverride(max_tokens=1_000, max_cost_usd=0.5),
    )
    plan = playbook().make_plan(task)
    assert (plan.policy.max_parallel, plan.policy.on_timeout, plan.policy.min_confidence) == (1, "approve", 0.6)
    assert (plan.budget.max_tokens, plan.budget.max_cost_usd, plan.budget.max_attempts) == (1_000, 0.5, 6)


def test_inputs_constraints_references_and_common_gates_reach_every_step() -> None:
    reference = Reference(name="0" * 64, sha256="0" * 64, size_bytes=1)
    task = TASK.evolve(input={"draft": "x"}, references={"image": reference}, constraints=("be kind",))
    plan = playbook(gates=(SchemaGate(output_schema={}),)).make_plan(task)
    for step in plan.steps:
        assert step.manifest.inputs == {"draft": "x"}
        assert step.manifest.references == {"image": reference}
        assert step.manifest.constraints == ("be kind",)
        assert step.manifest.verification == (SchemaGate(output_schema={}),)


def test_an_input_that_is_missing_or_empty_is_named() -> None:
    needing = playbook(inputs=("draft",))
    with pytest.raises(InvalidInputError, match=r"input\.draft: is missing; try needs it"):
        needing.make_plan(TASK)
    with pytest.raises(InvalidInputError, match=r"input\.draft: is empty"):
        needing.make_plan(TASK.evolve(input={"draft": ""}))
    reference = Reference(name="0" * 64, sha256="0" * 64, size_bytes=1)
    assert needing.make_plan(TASK.evolve(references={"draft": reference}))


def test_only_steps_that_the_checklist_calls_for_are_planned() -> None:
    shipped = load_playbooks()["content-qa"]
    task = Task(kind="content-qa", input={"draft": "x"}, checklist={"tone": {"banned": ["y"]}})
    plan = shipped.make_plan(task)
    assert [step.id for step in plan.steps] == ["tone"]
    assert plan.steps[0].manifest.inputs["rules"]
    both = task.evolve(checklist={"links": {}, "compliance": {"required": ["z"]}})
    assert [step.id for step in shipped.make_plan(both).steps] == ["compliance", "links"]


@pytest.mark.parametrize("checklist", [None, {}, {"tonne": {}}, {"compliance": {}}, [], "tone"])
def test_a_checklist_that_names_no_check_is_refused(checklist: object) -> None:
    shipped = load_playbooks()["content-qa"]
    task = Task.model_validate({"kind": "content-qa", "input": {"draft": "x"}, "checklist": checklist})
    with pytest.raises(InvalidInputError, match="checklist"):
        shipped.make_plan(task)


def test_a_playbook_that_needs_thinking_is_refused_by_the_rule_based_brain() -> None:
    thinking = read_playbook("name: think\nplanner: think hard\n", "think.yaml")
    with pytest.raises(InvalidInputError, match="fixed plan"):
        thinking.make_plan(Task(kind="think"))


# Fitting the budget


def test_attempts_and_seconds_are_cut_to_the_budget_and_the_largest_give_first() -> None:
    plan = playbook().make_plan(TASK.evolve(budget=BudgetOverride(max_attempts=3, time_budget_s=60)))
    assert [step.max_attempts for step in plan.steps] == [1, 2] or [step.max_attempts for step in plan.steps] == [2, 1]
    assert sum(step.time_budget_s for step in plan.steps) == 60


def test_a_budget_that_is_too_small_is_an_error_with_the_least_that_would_do() -> None:
    with pytest.raises(InvalidInputError, match=r"budget\.max_attempts: 1 is not enough for 2 steps; give at least 2"):
        playbook().make_plan(TASK.evolve(budget=BudgetOverride(max_attempts=1)))


def test_a_playbook_may_widen_or_narrow_a_range_and_a_task_may_not_leave_it() -> None:
    wide = read_playbook(STEPS + "limits: {max_attempts: [1, 50]}\nbudget: {max_attempts: 40}\n", "wide.yaml")
    assert wide.make_plan(TASK).budget.max_attempts == 40
    narrow = read_playbook(STEPS + "limits: {max_attempts: [2, 6]}\n", "narrow.yaml")
    with pytest.raises(InvalidInputError, match="max_attempts is 8; it must be 2 to 6"):
        narrow.make_plan(TASK.evolve(budget=BudgetOverride(max_attempts=8)))


@given(
    wanted=st.lists(st.tuples(st.integers(1, 5), st.integers(10, 600)), min_size=1, max_size=8),
    attempts=st.integers(1, 10),
    seconds=st.integers(60, 900),
)
def test_a_plan_always_fits_its_budget_or_is_refused_for_it(
    wanted: list[tuple[int, int]], attempts: int, seconds: int
) -> None:
    template = playbook().plan[0]
    steps = tuple(
        template.evolve(id=f"s{number}", max_attempts=tries, time_budget_s=time_s)
        for number, (tries, time_s) in enumerate(wanted)
    )
    made_of = playbook(plan=steps)
    task = TASK.evolve(budget=BudgetOverride(max_attempts=attempts, time_budget_s=seconds))
    if len(steps) > attempts or 10 * len(steps) > seconds:
        with pytest.raises(InvalidInputError, match="budget"):
            made_of.make_plan(task)
        return
    plan: Plan = made_of.make_plan(task)
    assert sum(step.max_attempts for step in plan.steps) == min(attempts, sum(tries for tries, _ in wanted))
    assert sum(step.time_budget_s for step in plan.steps) == min(seconds, sum(time_s for _, time_s in wanted))
    for step, (tries, time_s) in zip(plan.steps, wanted, strict=True):
        assert 1 <= step.max_attempts <= tries
        assert 10 <= step.time_budget_s <= time_s


def test_the_default_budget_is_within_the_default_limits() -> None:
    assert playbook().make_plan(TASK).budget == Budget()


def test_a_step_that_is_not_called_for_hands_its_own_dependencies_on() -> None:
    chain = read_playbook(
        "name: chain\nchecklist: content\ncapabilities: [x]\nplan:\n"
        "  - {id: a, capability: x, goal: g, time_budget_s: 10, max_attempts: 1, manifest: {objective: o}}\n"
        "  - {id: b, when: links, depends_on: [a], capability: x, goal: g, time_budget_s: 10, max_attempts: 1,"
        " manifest: {objective: o}}\n"
        "  - {id: c, depends_on: [b], capability: x, goal: g, time_budget_s: 10, max_attempts: 1,"
        " manifest: {objective: o}}\n",
        "chain.yaml",
    )
    plan = chain.make_plan(Task(kind="chain", checklist={"tone": {"banned": ["bad"]}}))
    assert {step.id: step.depends_on for step in plan.steps} == {"a": (), "c": ("a",)}


def test_what_a_contract_refuses_is_said_as_bad_input() -> None:
    task = Task(kind="content-qa", input={"draft": "x"}, checklist={"links": {}}, constraints=("no",) * 50)
    with pytest.raises(InvalidInputError, match="at most 50"):
        load_playbooks()["content-qa"].make_plan(task)
