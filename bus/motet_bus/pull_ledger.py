"""The account of what was asked of a consumer and has not come yet."""

from __future__ import annotations


class _Pull:
    __slots__ = ("expires_at", "left")

    def __init__(self, left: int, expires_at: float) -> None:
        self.left = left
        self.expires_at = expires_at


class PullLedger:
    """Counts the messages that open pulls may still bring.

    A delivery does not say which pull it answers, and the server serves open pulls in turn: so deliveries are charged
    to the oldest pull, and the count that a closing status carries corrects the total.
    """

    def __init__(self) -> None:
        self._pulls: dict[str, _Pull] = {}
        self.asked = 0

    def opened(self, pull_id: str, number: int, expires_at: float) -> None:
        """A pull for `number` messages was sent; without a closing status it is void at `expires_at` (loop time)."""
        self._pulls[pull_id] = _Pull(number, expires_at)
        self.asked += number

    def delivered(self) -> None:
        """One message came in; one that nobody asked for (any more) counts for nothing."""
        self._charge(1)

    def ended(self, pull_id: str, left: int | None) -> None:
        """The server ended a pull that had `left` messages to go; None when it did not say."""
        pull = self._pulls.pop(pull_id, None)
        known = pull.left if pull is not None else 0
        self.asked -= known
        if left is None:
            return
        if left > known:
            self._charge(left - known)
        elif pull is not None and (mistaken := known - left):
            self._pulls[f"{pull_id} taken by others"] = _Pull(mistaken, pull.expires_at)
            self.asked += mistaken

    def expire(self, now: float) -> None:
        """Forget pulls whose time is long over."""
        for pull_id in [pull_id for pull_id, pull in self._pulls.items() if pull.expires_at <= now]:
            self.asked -= self._pulls.pop(pull_id).left

    def clear(self) -> None:
        """Forget all: the server did too."""
        self._pulls.clear()
        self.asked = 0

    def _charge(self, number: int) -> None:
        for pull_id, pull in list(self._pulls.items()):
            taken = min(pull.left, number)
            pull.left -= taken
            self.asked -= taken
            number -= taken
            if pull.left == 0:
                del self._pulls[pull_id]
            if number == 0:
                return
