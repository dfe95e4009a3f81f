"""A piece of markup as a parser sees it, and the way back from each of its characters to the draft."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from motet_agents.qa.prose import ProseBuilder


@dataclass(frozen=True, slots=True)
class Passage:
    """`text`, made of stretches of the draft: stretch `i` begins at `starts[i]` in `text` and at `origins[i]` there.

    Within a stretch the two agree character by character, but for a line end, which may be two characters there.
    """

    text: str
    starts: tuple[int, ...] = (0,)
    origins: tuple[int, ...] = (0,)

    def locate(self, position: int) -> int:
        """Return where in the draft `text[position]` stands."""
        index = max(bisect_right(self.starts, position) - 1, 0)
        return self.origins[index] + max(position - self.starts[index], 0)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where in the draft `text[start:end]`, which must not be empty, stands."""
        return self.locate(start), self.locate(end - 1) + 1

    def pour(self, start: int, end: int, prose: ProseBuilder) -> None:
        """Add `text[start:end]` to `prose`."""
        index = max(bisect_right(self.starts, start) - 1, 0)
        while start < end:
            following = self.starts[index + 1] if index + 1 < len(self.starts) else len(self.text)
            stop = min(end, following)
            prose.add(self.text[start:stop], self.locate(start), stop - start)
            start, index = stop, index + 1
