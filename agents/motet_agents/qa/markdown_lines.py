"""Finds the text of a Markdown block in the lines of the draft, container marks (`>`, `-`, indentation) aside."""

from __future__ import annotations

import re
from dataclasses import dataclass

from motet_agents.qa.passages import Passage

_LINE_END = re.compile(r"\r\n?|\n")
_CELL_END = re.compile(r"(?<!\\)\|")
_ONLY_MARKS = re.compile(r"[\s>*+\-.)\d]*\Z")


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a draft, without their ends, and where each begins."""

    texts: tuple[str, ...]
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> Lines:
        """Divide `text` as Markdown does."""
        texts: list[str] = []
        offsets: list[int] = []
        start = 0
        for line_end in _LINE_END.finditer(text):
            texts.append(text[start : line_end.start()])
            offsets.append(start)
            start = line_end.end()
        return cls((*texts, text[start:]), (*offsets, start))

    def raw(self, first: int, after: int) -> Passage:
        """Return the lines `first` to `after` (exclusive) as they stand, marks included."""
        return self._passage([(self.texts[line], line, 0) for line in range(first, min(after, len(self.texts)))])

    def align(self, content: str, first: int, after: int) -> Passage | None:
        """Return `content`, which a parser took from these lines, with its places; None when it is not there."""
        found: list[tuple[str, int, int]] = []
        line = first
        for text in content.split("\n"):
            wanted = text.strip()
            while wanted and line < after and not self.texts[line].rstrip().endswith(wanted):
                if self.texts[line].strip():
                    return None
                line += 1
            if line >= min(after, len(self.texts)):
                return None if wanted or text else self._passage(found)
            end = len(self.texts[line].rstrip() if wanted else self.texts[line])
            found.append((text.lstrip(), line, end - len(wanted)))
            line += 1
        return self._passage(found)

    def align_heading(self, content: str, line: int) -> Passage | None:
        """Return the text of a `# heading` with its place."""
        marks = re.search(r"#{1,6}", self.texts[line])
        column = self.texts[line].find(content, marks.end()) if marks and content else -1
        return None if column == -1 else self._passage([(content, line, column)])

    def align_row(self, cells: list[str], line: int) -> list[Passage | None]:
        """Return the cells of a table row with their places; None for one that could not be found."""
        columns = self._columns(line)
        leading = bool(columns) and bool(_ONLY_MARKS.match(columns[0][0])) and len(columns) > 1
        for shift in (1, 0) if leading else (0, 1):
            passages = [self._cell(cell, columns, index + shift, line) for index, cell in enumerate(cells)]
            if all(passage is not None for passage in passages):
                return passages
        return [None for _ in cells]

    def _columns(self, line: int) -> list[tuple[str, int]]:
        text, start = self.texts[line], 0
        columns: list[tuple[str, int]] = []
        for bar in _CELL_END.finditer(text):
            columns.append((text[start : bar.start()], start))
            start = bar.end()
        return [*columns, (text[start:], start)]

    def _cell(self, cell: str, columns: list[tuple[str, int]], index: int, line: int) -> Passage | None:
        if index >= len(columns) or (not cell and not columns[index][0].strip()):
            return None if cell else Passage("", (0,), (self.offsets[line],))
        raw, column = columns[index]
        body = raw.rstrip()
        wanted = cell.replace("|", "\\|")
        if not body.endswith(wanted) or (index > 0 and body.strip() != wanted):
            return None
        column += len(body) - len(wanted)
        starts, origins, position = [0], [self.offsets[line] + column], 0
        for part in cell.split("|")[:-1]:
            position += len(part)
            starts.append(position)
            origins.append(origins[0] + position + len(starts) - 1)
            position += 1
        return Passage(cell, tuple(starts), tuple(origins))

    def _passage(self, found: list[tuple[str, int, int]]) -> Passage:
        starts: list[int] = []
        origins: list[int] = []
        position = 0
        for text, line, column in found:
            starts.append(position)
            origins.append(self.offsets[line] + column)
            position += len(text) + 1
        return Passage("\n".join(text for text, _, _ in found), tuple(starts or [0]), tuple(origins or [0]))
