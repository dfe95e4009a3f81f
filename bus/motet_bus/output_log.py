"""A child's output in a file that cannot grow without bound."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import structlog

log = structlog.get_logger(__name__)

MAX_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class OutputLog:
    """Appends lines to `path` (mode 0600); a file of `max_bytes` becomes `<path>.1`, and the former `.1` goes.

    A disk that is full must not stop an agent: a line that cannot be written is dropped, with one warning.
    """

    path: Path
    max_bytes: int = MAX_BYTES
    _file: BinaryIO | None = field(default=None, init=False)
    _size: int = field(default=0, init=False)
    _warned: bool = field(default=False, init=False)

    def write(self, line: str) -> None:
        data = line.encode(errors="replace") + b"\n"
        try:
            self._room_for(len(data)).write(data)
        except OSError as error:
            if not self._warned:
                log.warning("output_log.failed", path=str(self.path), error=str(error))
                self._warned = True
        else:
            self._size += len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _room_for(self, adding: int) -> BinaryIO:
        file = self._opened()
        if self._size > 0 and self._size + adding > self.max_bytes:
            self.close()
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            file = self._opened()
        return file

    def _opened(self) -> BinaryIO:
        if self._file is None:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(descriptor, "ab", 0)
            self._size = os.fstat(descriptor).st_size
        return self._file
