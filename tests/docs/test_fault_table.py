"""The table of faults names tests that exist."""

from __future__ import annotations

import re

from tests.docs.fences import ROOT

PAGE = ROOT / "docs" / "exactly-once.md"
_DEFINED = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    defined = {name for file in (ROOT / "tests").rglob("test_*.py") for name in _DEFINED.findall(file.read_text())}
    assert sorted(named - defined) == []
    assert len(named) > 20


def test_each_fault_of_the_table_has_a_test() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    faults = rows[rows.index("| fault | what holds | test |") + 1 :]
    assert [row for row in faults if "`test_" not in row.split("|")[3]] == []
