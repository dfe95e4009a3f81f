"""Reads files that somebody named: regular ones only, up to a size, so that no pipe or device can hold up or flood."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from motet_schemas.errors import InvalidInputError
from motet_schemas.printing import cut

_SHOWN: Final = 200
_UNBLOCKED: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def read_file(path: Path, field: str, *, max_bytes: int) -> bytes:
    """Return the bytes of the regular file at `path`, links followed.

    Raises `InvalidInputError`, naming `field` and the file, when it cannot be read, is no regular file (a directory, a
    pipe, a device), or holds more than `max_bytes`: of a larger one no more than that is read.
    """
    name = cut(str(path), _SHOWN)
    try:
        descriptor = os.open(path, os.O_RDONLY | _UNBLOCKED)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL, half a surrogate pair
        raise InvalidInputError(f"{field}: {name}: there is no such file", field=field, value=name) from error
    except OSError as error:
        raise InvalidInputError(f"{field}: cannot read {name}: {error.strerror}", field=field, value=name) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            what = "is a directory" if stat.S_ISDIR(mode) else "is not a file"
            raise InvalidInputError(f"{field}: {name}: {what}", field=field, value=name, rule="a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InvalidInputError(f"{field}: cannot read {name}: {error.strerror}", field=field, value=name) from error
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise InvalidInputError(
            f"{field}: {name} is larger than {_size(max_bytes)}",
            field=field,
            value=name,
            rule=f"at most {max_bytes} bytes",
        )
    return data


def _size(number: int) -> str:
    return f"{number / 1024 / 1024:g} MiB" if number >= 1024 * 1024 else f"{number / 1024:g} KiB"
