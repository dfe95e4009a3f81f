"""The text of a draft that its readers see, with an exact way back to the draft.

Blocks (paragraphs, list items, headings, cells) are divided by `BLOCK`; what a reader sees but is no prose (code,
images, bare addresses) leaves a `GAP`. Neither is a letter or white space, so no phrase and no sentence runs across.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

BLOCK: Final = "\x00"
GAP: Final = "\ufffc"


@dataclass(frozen=True, slots=True)
class Prose:
    """`text` in runs: run `i` begins at `starts[i]` in `text` and shows `draft[origins[i]:origins[i] + lengths[i]]`.

    A run of the same length on both sides maps character by character; any other (an entity, an escape) only as one.
    """

    text: str
    starts: tuple[int, ...]
    origins: tuple[int, ...]
    lengths: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the offsets in the draft of `text[start:end]`, which must not be empty."""
        return self._origin(start)[0], self._origin(end - 1)[1]

    def covers(self, start: int, end: int) -> bool:
        """Say whether every character of `draft[start:end]` is shown as prose."""
        position = start
        index = max(bisect_right(self.origins, start) - 1, 0)
        while position < end:
            if index >= len(self.origins) or self.origins[index] > position:
                return False
            is_gap = self.text[self.starts[index]] == GAP
            position = max(position, self.origins[index] + (0 if is_gap else self.lengths[index]))
            index += 1
        return True

    def _origin(self, position: int) -> tuple[int, int]:
        run = bisect_right(self.starts, position) - 1
        origin, length = self.origins[run], self.lengths[run]
        shown = (self.starts[run + 1] if run + 1 < len(self.starts) else len(self.text)) - self.starts[run]
        if shown != length:
            return origin, origin + length
        offset = origin + position - self.starts[run]
        return offset, offset + 1


class ProseBuilder:
    """Collects prose in the order of the draft."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._starts: list[int] = []
        self._origins: list[int] = []
        self._lengths: list[int] = []
        self._size = 0
        self._linear_end = -1
        self._block_is_empty = True

    def add(self, text: str, origin: int, length: int) -> None:
        """Add `text`, shown for `length` characters of the draft from `origin` on."""
        if not text or not length:
            return
        linear = len(text) == length
        if linear and self._linear_end == origin:
            self._lengths[-1] += length
        else:
            self._starts.append(self._size)
            self._origins.append(origin)
            self._lengths.append(length)
        self._linear_end = origin + length if linear else -1
        self._parts.append(text)
        self._size += len(text)
        self._block_is_empty = False

    def gap(self, origin: int, length: int) -> None:
        """Note that something other than prose is shown for `length` characters of the draft."""
        self._divide(GAP, origin, length)

    def end_block(self, origin: int) -> None:
        """End the block, if anything stands in it; `origin` is where in the draft it ends."""
        if not self._block_is_empty:
            self._divide(BLOCK, origin, 0)
            self._block_is_empty = True

    def mark(self) -> int:
        """Return a place that `since` knows."""
        return len(self._parts)

    def since(self, mark: int) -> str:
        """Return the text that was added after `mark`."""
        return "".join(self._parts[mark:])

    def build(self) -> Prose:
        """Return what was collected."""
        return Prose("".join(self._parts), tuple(self._starts), tuple(self._origins), tuple(self._lengths))

    def _divide(self, mark: str, origin: int, length: int) -> None:
        self._starts.append(self._size)
        self._origins.append(origin)
        self._lengths.append(length)
        self._linear_end = -1
        self._parts.append(mark)
        self._size += 1
        self._block_is_empty = False
