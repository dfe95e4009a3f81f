"""Large inputs of a step, fetched: as text, and no more of it than a process can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from motet_bus.objects import LARGEST_OBJECT_BYTES, Objects
from motet_bus.outcome import is_text
from motet_schemas import PermanentError, Reference

LARGEST_INPUTS_BYTES: Final = LARGEST_OBJECT_BYTES
"""How many bytes the referenced texts of one step may have together: 64 MiB."""


async def fetch_texts(objects: Objects, references: Mapping[str, Reference]) -> dict[str, str]:
    """Return those of `references` that are text, by name.

    Raises `PermanentError` when they have more than 64 MiB together or one is not UTF-8, and what `Objects.get` raises.
    """
    texts = {name: reference for name, reference in references.items() if is_text(reference)}
    total = sum(reference.size_bytes for reference in texts.values())
    if total > LARGEST_INPUTS_BYTES:
        raise PermanentError(
            f"references: their texts have {total} bytes together; a step may bring {LARGEST_INPUTS_BYTES}"
        )
    fetched: dict[str, str] = {}
    for name, reference in texts.items():
        try:
            fetched[name] = (await objects.get(reference)).decode()
        except UnicodeDecodeError as error:
            raise PermanentError(f"references.{name}: is not UTF-8 (byte {error.start}); store it as UTF-8") from error
    return fetched
