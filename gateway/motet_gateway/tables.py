"""Tables and labelled lines that fit: what is worth least is shortened or left out, and no word is broken."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.text import Text

from motet_gateway.terminal import one_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_GAP: Final = 2


class FittingTable:
    """A table without lines, one row a line.

    Where it is wider than the console, the columns in `spare` give way in that order: one that is in `cut`, too, is cut
    with an ellipsis when that is enough and its heading still fits; others are left out. Last, the widest are cut.
    """

    def __init__(self, *headings: str, spare: Sequence[str] = (), cut: Collection[str] = ()) -> None:
        self._headings = headings
        self._spare = [headings.index(heading) for heading in spare]
        self._cut = cut
        self._rows: list[list[str]] = [list(headings)]

    def add_row(self, *cells: str) -> None:
        """Add a row: a cell for every heading, each shown on one line, whatever it holds."""
        self._rows.append([one_line(cell, None) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(options.max_width)
        for number, row in enumerate(self._rows):
            cells: list[str] = []
            for column, width in widths.items():
                cell = Text(row[column])
                cell.truncate(width, overflow="ellipsis", pad=True)
                cells.append(cell.plain)
            line = (" " * _GAP).join(cells).rstrip()
            yield Text(line, style="dim" if number == 0 else "", no_wrap=True, overflow="ignore")

    def _widths(self, available: int) -> dict[int, int]:
        """Return the width of each column that is shown, by its position."""
        widths = {column: max(cell_len(row[column]) for row in self._rows) for column, _ in enumerate(self._headings)}
        for column in self._spare:
            excess = _total(widths) - available
            if excess <= 0:
                return widths
            heading = self._headings[column]
            if heading in self._cut and widths[column] - excess >= cell_len(heading):
                widths[column] -= excess
            else:
                del widths[column]
        while _total(widths) > available and max(widths.values()) > 1:
            widest = max(widths, key=lambda column: widths[column])
            widths[widest] -= 1
        return widths


class Labelled:
    """A label and what is said under it: lines after the first are indented, so that the labels stand alone."""

    def __init__(self, label: str, text: str, *, width: int, style: str = "") -> None:
        self._label = Text(f"{label:<{width}}", style=style)
        self._text = Text(text)
        self._indent = width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wrapped = self._text.wrap(console, max(1, options.max_width - self._indent))
        for number, line in enumerate(wrapped):
            line.rstrip()
            head = self._label if number == 0 else Text(" " * self._indent)
            yield Text.assemble(head, line, no_wrap=True, overflow="ignore")


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)
