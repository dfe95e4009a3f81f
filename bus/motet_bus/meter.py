"""Makes instruments of the OpenTelemetry API. Without an SDK they do nothing, and cost next to nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from motet_bus.instruments import INSTRUMENTS, Instrument

Source = Callable[[], Iterable[tuple[float, "Labels"]]]
"""What a looked-up metric is read from: values with their labels, in the reader's thread."""
Labels = dict[str, str]

_METER: Final = metrics.get_meter("motet")
_SOURCES: Final[defaultdict[str, list[Source]]] = defaultdict(list)
_WORDS: Final = 50
_OTHER: Final = "other"


class Count:
    """What is counted here, by labels. The SDK reads it when somebody looks: telling it each time costs 14 µs."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, tuple[Labels, list[float]]] = {}

    def add(self, amount: float, told: Labels) -> None:
        """Add to the count of `told`, labels that `labels` made."""
        known = self._counts.get(id(told))
        if known is None:
            self._counts[id(told)] = (told, [amount])
        else:
            known[1][0] += amount

    def read(self) -> list[tuple[float, Labels]]:
        """Return all counts; the same labels may have been made twice."""
        sums: dict[frozenset[tuple[str, str]], tuple[float, Labels]] = {}
        for told, (amount,) in list(self._counts.values()):
            key = frozenset(told.items())
            sums[key] = (amount + sums.get(key, (0, told))[0], told)
        return list(sums.values())


def counter(one: Instrument) -> Count:
    """Return what counts for an instrument; once in a process."""
    count = Count()
    observe(one, count.read)
    return count


def histogram(one: Instrument) -> metrics.Histogram:
    """Return an instrument that sorts values into its buckets."""
    return _METER.create_histogram(
        one.name, one.unit, one.description, explicit_bucket_boundaries_advisory=list(one.buckets)
    )


def observe(one: Instrument, source: Source) -> Callable[[], None]:
    """Have `one` read from `source` until the function that this returns is called."""
    _SOURCES[one.name].append(source)
    return lambda: _SOURCES[one.name].remove(source)


@lru_cache(maxsize=4_096)
def labels(*pairs: tuple[str, str]) -> Labels:
    """Return labels, the same object for the same pairs; empty ones are left out."""
    return {name: value for name, value in pairs if value}


_known: Final[defaultdict[str, set[str]]] = defaultdict(set)


def bounded(label: str, word: str) -> str:
    """Return a word that somebody else chose as a value of `label`: the first 50 of this process, then `other`."""
    known = _known[label]
    if word not in known:
        if len(known) >= _WORDS:
            return _OTHER
        known.add(word)
    return word


def _looked_up(one: Instrument) -> None:
    def read(_: CallbackOptions) -> Iterator[Observation]:
        for source in list(_SOURCES[one.name]):
            for value, told in source():
                yield Observation(value, told)

    create: Callable[..., object] = {
        "gauge": _METER.create_observable_gauge,
        "live": _METER.create_observable_up_down_counter,
    }.get(one.kind, _METER.create_observable_counter)
    create(one.name, [read], one.unit, one.description)


for _one in INSTRUMENTS:
    if _one.kind != "histogram":
        _looked_up(_one)
