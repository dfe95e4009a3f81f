"""A task file that is wrong says so: file, field, value and rule, before anything is published."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from motet_agents.playbooks import load_playbooks
from motet_agents.strict_yaml import read_structured
from motet_gateway.taskfile import LoadedTask, check_task, load_task
from motet_schemas import InvalidInputError

MIB = 1024 * 1024


def _load(folder: Path, text: str, name: str = "task.yaml") -> LoadedTask:
    (folder / name).write_text(text, encoding="utf-8")
    return load_task(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "draft.md").write_text("# Hello\n\nTerms apply.\n")
    (tmp_path / "empty.md").write_text(" \n\n")
    (tmp_path / "latin.md").write_bytes("café".encode("latin-1"))
    (tmp_path / "large.md").write_bytes(b"word " * (MIB + 1))
    (tmp_path / "checklist.yaml").write_text("compliance: {required: [Terms apply]}\n")
    (tmp_path / "broken.yaml").write_text("tone:\n  banned: [x\n")
    return tmp_path


def test_a_whole_task_file_is_read(folder: Path) -> None:
    loaded = _load(
        folder,
        """
        kind: content-qa
        id: spring-launch-email
        input: {draft: draft.md}
        checklist: checklist.yaml
        constraints: [Do not rewrite]
        owner: brand-team
        due: 2026-12-01T12:00:00Z
        budget: {max_attempts: 6, max_tokens: 6000, time_budget_s: 240, max_cost_usd: 0.5}
        policy: {min_confidence: 0.7, max_parallel: 4}
        """,
    )
    task = loaded.task
    assert loaded.conversation == "spring-launch-email"
    assert task.input == {"draft": "# Hello\n\nTerms apply.\n", "media_type": "text/markdown"}
    assert task.references == {}
    assert task.checklist == {"compliance": {"required": ["Terms apply"]}}
    assert task.due == datetime(2026, 12, 1, 12, tzinfo=UTC)
    assert task.budget is not None
    assert task.budget.max_tokens == 6000
    assert task.policy is not None
    assert task.policy.max_parallel == 4


def test_json_says_the_same(folder: Path) -> None:
    content = {"kind": "content-qa", "input": {"draft": "draft.md"}, "due": "2026-12-01T12:00:00Z"}
    as_json = _load(folder, json.dumps(content), "task.json")
    as_yaml = _load(folder, "{kind: content-qa, input: {draft: draft.md}, due: 2026-12-01T12:00:00Z}")
    assert as_json.task == as_yaml.task


def test_an_id_is_made_up_and_each_time_another(folder: Path) -> None:
    text = "{kind: content-qa, input: {draft: draft.md}}"
    first, second = _load(folder, text), _load(folder, text)
    assert first.conversation.startswith("content-qa-")
    assert first.conversation != second.conversation


@pytest.mark.parametrize(
    ("given", "media_type"),
    [
        ("{text: '# Hi'}", "text/markdown"),
        ("{text: '<p>Hi</p>', media_type: text/html}", "text/html"),
        ("{draft: page.HTM}", "text/html"),
        ("{draft: notes.txt}", "text/plain"),
        ("{draft: notes.txt, media_type: text/markdown}", "text/markdown"),
    ],
)
def test_the_media_type_is_given_or_follows_from_the_name(folder: Path, given: str, media_type: str) -> None:
    (folder / "page.HTM").write_text("<p>Hi</p>")
    (folder / "notes.txt").write_text("Hi")
    task = _load(folder, f"{{kind: content-qa, input: {given}}}").task
    assert task.input["media_type"] == media_type
    assert "text" not in task.input
    assert isinstance(task.input["draft"], str)


def test_a_large_draft_travels_by_reference(folder: Path) -> None:
    text = "Long and dull. " * 1000
    (folder / "long.md").write_text(text)
    loaded = _load(folder, "{kind: content-qa, input: {draft: long.md}}")
    reference = loaded.task.references["draft"]
    assert "draft" not in loaded.task.input
    assert loaded.documents["draft"].data == text.encode()
    assert reference.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert reference.size_bytes == len(text)
    assert reference.media_type == "text/markdown"


def test_line_ends_are_kept_and_a_byte_order_mark_is_not(folder: Path) -> None:
    (folder / "windows.md").write_bytes(b"\xef\xbb\xbfHello\r\nthere\r\n")
    loaded = _load(folder, "{kind: content-qa, input: {draft: windows.md}}")
    assert loaded.task.input["draft"] == "Hello\r\nthere\r\n"


def test_paths_are_relative_to_the_task_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tasks").mkdir()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    loaded = _load(folder / "tasks", "{kind: content-qa, input: {draft: ../draft.md}, checklist: ../checklist.yaml}")
    assert loaded.task.input["draft"] == "# Hello\n\nTerms apply.\n"


def test_a_playbook_of_ones_own_takes_inputs_of_any_name(folder: Path) -> None:
    task = _load(folder, "{kind: mine, input: {repository: ., base: HEAD, deep: {list: [1, null]}}}").task
    assert task.input == {"repository": ".", "base": "HEAD", "deep": {"list": [1, None]}}


QA = "{kind: content-qa, input: {text: Hi}, checklist: {links: {}}, "
BAD = {
    "an unknown kind": ("{kind: content-aq}", r"kind: there is no playbook 'content-aq', did you mean 'content-qa'\?"),
    "a kind like no other": ("{kind: xyz}", "there is no playbook 'xyz'. Known here: .*content-qa"),
    "no draft": ("{kind: content-qa, checklist: {links: {}}}", "input.draft: is missing"),
    "no checklist": ("{kind: content-qa, input: {text: Hi}}", "checklist: names no check"),
    "a checklist that names no check": ("{kind: content-qa, input: {text: Hi}, checklist: {}}", "names no check"),
    "a checklist with a slip": (
        "{kind: content-qa, input: {text: Hi}, checklist: {complience: {}}}",
        "complience: unknown field, did you mean 'compliance'",
    ),
    "a budget for fewer attempts than steps": (
        "{kind: content-qa, input: {text: Hi}, checklist: {tone: {}, links: {}}, budget: {max_attempts: 1}}",
        "budget.max_attempts: 1 is not enough for 2 steps; give at least 2",
    ),
    "an unknown field": ("{kind: x, chekclist: {}}", r"chekclist: unknown field.*'checklist'"),
    "an unknown budget field": ("{kind: x, budget: {max_atempts: 2}}", r"budget.max_atempts: .*'max_attempts'"),
    "an unknown policy field": ("{kind: x, policy: {min_confidance: 1}}", r"policy.min_confidance: .*'min_confidence'"),
    "a slip in an input's name": ("{kind: x, input: {drft: draft.md}}", r"input.drft: unknown field.*'draft'"),
    "no kind": ("{input: {draft: draft.md}}", "kind: is required"),
    "a kind that is no token": ("{kind: a.b}", "kind"),
    "an id with a dot": ("{kind: x, id: a.b}", "id: 'a.b' cannot be part of a subject"),
    "an id with a wildcard": ("{kind: x, id: '*'}", r"id: '\*' cannot be part of a subject"),
    "an id that is too long": ("{kind: x, id: " + "a" * 65 + "}", "id: .* 1 to 64"),
    "an id that is no text": ("{kind: x, id: 12}", "id: must be text, not 12; put it in quotes"),
    "too many attempts": (QA + "budget: {max_attempts: 11}}", "budget.*max_attempts is 11; it must be 1 to 10"),
    "too few tokens": (QA + "budget: {max_tokens: 999}}", "max_tokens is 999; it must be 1000 to 12000"),
    "too little time": (QA + "budget: {time_budget_s: 59}}", "time_budget_s is 59; it must be 60 to 900"),
    "a negative cost": ("{kind: x, budget: {max_cost_usd: -1}}", "max_cost_usd: must be at least 0"),
    "a confidence above one": ("{kind: x, policy: {min_confidence: 1.5}}", "min_confidence: must be .*not 1.5"),
    "text where a number is wanted": ("{kind: x, budget: {max_tokens: many}}", "max_tokens: must be a whole number"),
    "a due date without a time zone": ("{kind: x, due: 2026-12-01T12:00:00}", "due: "),
    "an input that is no mapping": ("{kind: x, input: draft.md}", "input: must be a mapping"),
    "a draft that is no path": ("{kind: x, input: {draft: 5}}", "input.draft: must be the path of a file, not 5"),
    "a draft that is not there": ("{kind: x, input: {draft: gone.md}}", "gone.md: there is no such file; paths are"),
    "a draft that is a directory": ("{kind: x, input: {draft: .}}", "is a directory"),
    "an empty draft": ("{kind: x, input: {draft: empty.md}}", "empty.md: the draft is empty"),
    "an empty text": ("{kind: x, input: {text: ''}}", "input.text: the draft is empty"),
    "a draft in another encoding": ("{kind: x, input: {draft: latin.md}}", "latin.md: the draft is not UTF-8"),
    "a draft that is too large": ("{kind: x, input: {draft: large.md}}", "larger than 5 MiB"),
    "a draft and a text": ("{kind: x, input: {draft: draft.md, text: Hi}}", "names both draft and text"),
    "an unknown media type": ("{kind: x, input: {text: Hi, media_type: a/b}}", "media_type: must be one of"),
    "a checklist that is not there": (
        "{kind: x, checklist: gone.yaml}",
        "task.yaml: checklist: .*gone.yaml: there is no such file; paths are relative to the task file$",
    ),
    "a checklist that does not parse": (
        "{kind: x, checklist: broken.yaml}",
        "task.yaml: checklist: .*broken.yaml: .* at line 3, column 1",
    ),
    "invalid YAML": ("kind: x\ninput: [\n", "invalid YAML at line 3, column 1"),
    "a tab": ("kind: x\n\tid: y\n", "invalid YAML at line 2, column 1"),
    "the same key twice": ("kind: x\nkind: y\n", "line 2, column 1: the key 'kind' is there twice"),
    "a list": ("[1, 2]", "must be a mapping"),
    "nothing": ("", "kind: is required"),
    "a key that is no text": ("{kind: x, 1: y}", "the key 1 is not text"),
    "a type that only Python knows": ("kind: !!python/object:os.system x", "python/object"),
    "not a number": ("{kind: x, budget: {max_cost_usd: .inf}}", "line 1, column 34: .inf is no number"),
    "an alias of itself": ("kind: x\ninput: &a {b: *a}", "an alias names what it is part of"),
    "a bomb": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
        "more than 50,000 values",
    ),
    "too deep": ("[" * 5000, "line 1, column 102: nested too deeply: more than 100 levels"),
    "too deep in blocks": ("".join(f"{' ' * i}a:\n" for i in range(200)), "line 101, .*nested too deeply"),
    "too deep by aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200)),
        "nested too deeply: more than 100 levels, aliases followed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_place_and_rule(folder: Path, case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(InvalidInputError, match=f"(?s){message}"):
        check_task(_load(folder, text), load_playbooks(), "task.yaml")


@pytest.mark.parametrize("name", ["task.yaml", "task.json"])
def test_a_hundred_levels_are_not_too_deep(folder: Path, name: str) -> None:
    (folder / name).write_text("[" * 100 + "1" + "]" * 100)
    assert isinstance(read_structured(folder / name, "task"), list)
    (folder / name).write_text("[" * 101 + "1" + "]" * 101)
    with pytest.raises(InvalidInputError, match="nested too deeply"):
        read_structured(folder / name, "task")


def test_a_good_task_makes_the_plan_that_the_planner_will_make(folder: Path) -> None:
    plan = check_task(_load(folder, QA + "policy: {min_confidence: 0.5}}"), load_playbooks(), "task.yaml")
    assert [(step.id, step.min_confidence) for step in plan.steps] == [("links", 0.5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "x",}', "invalid JSON at line 1, column"),
        ('{"kind": "x", "kind": "y"}', "the key 'kind' is there twice"),
        ('{"kind": "x", "input": {"n": NaN}}', "NaN is no number"),
        ("[" * 100_000, "nested too deeply: more than 100 levels"),
        ('{"kind": "x", "input": ' + "[" * 101 + "]" * 101 + "}", "nested too deeply: more than 100 levels"),
    ],
)
def test_bad_json_is_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        _load(folder, text, "task.json")


def test_a_task_file_that_cannot_be_read_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"nowhere.yaml: there is no such file"):
        load_task(folder / "nowhere.yaml")
    with pytest.raises(InvalidInputError, match="is a directory"):
        load_task(folder)
    with pytest.raises(InvalidInputError, match="is not UTF-8"):
        load_task(folder / "latin.md")
