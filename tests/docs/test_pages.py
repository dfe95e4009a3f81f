"""The pages say what is so: what can run is run, files and links exist, and the rest has the right form."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests.docs.fences import ROOT, fences, pages, script

_LANGUAGES = {"sh", "python", "yaml", "console", "text", "mermaid", "", "json"}
_PROGRAMS = {"docker", "motet", "pip", "python3", "pre-commit", ".", "export", "nats", "curl"}
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?!https?://|#|mailto:)([^)#\s]+)")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_everything_a_page_says_to_run_works(page: Path, tmp_path: Path) -> None:
    if not any(fence.language in ("sh", "python") for fence in fences(page)):
        assert page.read_text(encoding="utf-8").startswith("# ")
        return
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    bin_directory = Path(sys.executable).parent
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MOTET_", "OTEL_"))},
        "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}",
        "MOTET_STORE": str(tmp_path / "store"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    log = tmp_path / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", script(page)],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        status = process.wait(timeout=120)
    finally:
        # What a failing page left running is in the script's process group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
    assert status == 0, log.read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_fences_have_a_language_we_know_and_their_form_is_right(page: Path) -> None:
    for fence in fences(page):
        assert fence.language in _LANGUAGES, fence.language
        if fence.language == "yaml":
            assert yaml.safe_load(fence.text) is not None
        if fence.language == "console":
            for line in fence.text.splitlines():
                words = [word for word in line.split() if "=" not in word or word.startswith("-")]
                assert not line or line.startswith("#") or words[0] in _PROGRAMS, line


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [target for target in _LINK.findall(text) if not (page.parent / target).exists()]
    assert missing == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = readme.split("<!-- test-command -->\n```sh\n")[1].split("```")[0]
    assert ".venv/bin/pytest" in marked
    assert "<!-- test-command -->" in (ROOT / ".ci/run").read_text(encoding="utf-8")
