"""Standard output carries results, standard error the rest; what others wrote cannot command the terminal."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

from motet_schemas.printing import COMMANDS, cut, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_ENDLESS: Final = 100_000


def one_line(text: str, limit: int | None = 100) -> str:
    """Return `text` on one line, cut to `limit` characters when there is a limit."""
    flat = " ".join(printable(text).split())
    return flat if limit is None else cut(flat, limit)


def console(file: TextIO) -> Console:
    """Return a console that prints what it is given, markup left alone.

    It is as wide as the terminal or as `COLUMNS` says; elsewhere lines are as long as they are.
    """
    from rich.console import Console

    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if re.fullmatch(r"0*[1-9]\d{0,5}", columns, re.ASCII) else None
    endless = width is None and not file.isatty()
    return Console(
        file=file,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=endless,
        width=_ENDLESS if endless else width,
    )


def print_result(content: RenderableType) -> None:
    """Print a result for people on standard output."""
    # What is wider than the terminal (a command to copy) is for the terminal to break, not to be cut off here.
    console(sys.stdout).print(content, crop=False)


def print_json(document: Any, *, compact: bool = False) -> None:
    """Print the one JSON document of a command on standard output; `compact` on one line."""
    text = json.dumps(document, ensure_ascii=False, indent=None if compact else 2)
    # JSON escapes some control characters itself; the rest of them must not command a terminal either.
    sys.stdout.write(COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Tell the user something that is no result."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()
