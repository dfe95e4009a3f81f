"""Code fences of a Markdown page, and the one shell script that they make, in order.

`sh` and `python` fences are run; a fence whose info string names a file (`yaml task.yaml`) is written there; `console`
fences need what is not here (Docker), so only their form is checked; other languages are for reading.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_INSTALL = re.compile(r"^python3 -m venv \.venv && \.venv/bin/pip install -q -e (?:\.|'\.\[dev\]') && ")


@dataclass(frozen=True)
class Fence:
    """One fence: its language, the file it names, its text."""

    language: str
    file: str
    text: str


def pages() -> list[Path]:
    """Return all pages for readers."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def fences(page: Path) -> list[Fence]:
    """Return the page's fences in order."""
    found: list[Fence] = []
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        language, _, file = match["info"].strip().partition(" ")
        found.append(Fence(language, file, match["body"]))
    return found


def script(page: Path) -> str:
    """Return one bash script that does what the page says; the test command itself is left to the build server."""
    lines = ["set -euo pipefail"]
    for fence in fences(page):
        if fence.file:
            lines += [f"mkdir -p {shlex.quote(str(Path(fence.file).parent))}", _write(fence)]
        elif fence.language == "sh" and "pytest" not in fence.text:
            lines.append(_INSTALL.sub("", fence.text))
        elif fence.language == "python":
            lines.append(f"python - <<'MOTET_PYTHON'\n{fence.text}MOTET_PYTHON")
    return "\n".join(lines) + "\n"


def _write(fence: Fence) -> str:
    return f"cat > {shlex.quote(fence.file)} <<'MOTET_FILE'\n{fence.text}MOTET_FILE"
