"""Files that people (or their enemies) wrote: each is refused by name, and none takes much memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from motet_schemas import InvalidInputError
from motet_schemas.printing import COMMANDS
from tests.doors.files import DOORS, READERS, bombs, strange, try_doors
from tests.doors.measured import MOST_MIB, in_a_child
from tests.schemas.rubbish import json_values

pytestmark = pytest.mark.slow

_QUICK = ("laughs.yaml", "deep.yaml", "itself.yaml", "half.yaml", "tag.yaml", "latin.yaml", "nul.yaml")
_TASK = {
    "kind": "content-qa",
    "id": "x",
    "input": {"text": "Terms apply."},
    "checklist": {"compliance": {"required": ["Terms apply"]}},
    "budget": {"max_attempts": 6},
    "policy": {"min_confidence": 0.7},
}


def test_a_bomb_is_refused_by_name_with_little_memory(tmp_path: Path) -> None:
    files = bombs()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    done = in_a_child("tests.doors.files:try_doors", tmp_path, ",".join(files), "task")
    for where, message in done.result.items():
        assert where.partition(" ")[0] in message
        assert len(message) < 2_000, where
    assert done.peak_mib < MOST_MIB


def test_every_door_reads_with_the_same_care(tmp_path: Path) -> None:
    files = bombs()
    for name in _QUICK:
        (tmp_path / name).write_bytes(files[name])
    done = in_a_child("tests.doors.files:try_doors", tmp_path, ",".join(_QUICK), ",".join(READERS))
    assert [where for where, message in done.result.items() if not message] == []
    assert done.peak_mib < MOST_MIB


def test_what_is_no_ordinary_file_is_refused_at_every_door(tmp_path: Path) -> None:
    names = ",".join(path.name for path in strange(tmp_path))
    done = in_a_child("tests.doors.files:try_doors", tmp_path, names, ",".join(DOORS))
    assert [where for where, message in done.result.items() if not message] == []
    for where, message in done.result.items():
        if where.startswith("huge"):
            assert "is larger than" in message
        elif where.startswith(("pipe", "zero")):
            assert "is not a file" in message, where
    assert done.peak_mib < MOST_MIB


def test_a_file_that_grows_while_it_is_read_is_read_up_to_the_limit(tmp_path: Path) -> None:
    log = tmp_path / "growing.yaml"
    log.write_text("- a\n")
    with log.open("a") as growing:
        growing.truncate(1 << 33)
        assert "larger than 5 MiB" in try_doors(str(tmp_path), log.name, "task")["growing.yaml at task"]


@pytest.mark.parametrize(
    "path", ["\x00", "a\x00b", "\ud800", "x" * 100_000, "../" * 5_000, "~nobody-here/x", "", ".", "/", "\x1b[31m"]
)
@pytest.mark.parametrize("key", ["draft", "checklist"])
def test_a_path_that_leads_nowhere_is_a_clear_error(tmp_path: Path, path: str, key: str) -> None:
    task = tmp_path / "task.yaml"
    named: dict[str, Any] = {"input": {"draft": path}} if key == "draft" else {"checklist": path}
    task.write_text(json.dumps({"kind": "content-qa", **named}))
    with pytest.raises(InvalidInputError) as refused:
        DOORS["task"](task)
    assert str(refused.value.field).endswith(key) or path == "\ud800"
    assert len(refused.value.message) < 2_000


def _texts() -> st.SearchStrategy[bytes]:
    values = st.fixed_dictionaries({}, optional={name: st.just(value) | json_values for name, value in _TASK.items()})
    sane = values | json_values
    as_json = sane.map(lambda value: json.dumps(value).encode())
    as_yaml = sane.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "replace"))
    return as_json | as_yaml | st.text().map(lambda text: text.encode("utf-8", "replace")) | st.binary()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@given(door=st.sampled_from(sorted(DOORS)), content=_texts(), suffix=st.sampled_from([".yaml", ".json", ".md"]))
def test_any_content_is_taken_or_refused_in_words(folder: Path, door: str, content: bytes, suffix: str) -> None:
    path = folder / f"fuzzed{suffix}"
    path.write_bytes(content)
    said = try_doors(str(folder), path.name, door)
    assert all(len(message) < 4_000 for message in said.values())


def test_an_unknown_name_is_shown_cut_and_tamed(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text(json.dumps({"kind": "content-qa", "policy": {"\x1b[31m" + "k" * 50_000: 1}}))
    with pytest.raises(InvalidInputError) as refused:
        DOORS["task"](path)
    assert len(refused.value.message) < 1_000
    assert not COMMANDS.search(refused.value.message)
