"""Where archives are kept: in the object store of the bus, or in a folder whose files need nothing else.

An archive is named by its content, so writing it again is harmless and no other file can be taken for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from motet_bus.answers import StoredMessage
from motet_bus.archive_format import (
    MEDIA_TYPE,
    Archived,
    ArchiveError,
    ArchiveWriter,
    read_archive,
    references_in,
)
from motet_bus.bus import Bus
from motet_bus.link import Link
from motet_bus.objects import LARGEST_OBJECT_BYTES, Objects
from motet_bus.topology import OBJECTS
from motet_schemas import Event, InvalidInputError, Namespace, NotFoundError, Reference, TaskArchived, fold_all
from motet_schemas.envelope import BODY_REFERENCE

_BLOCK: Final = 1 << 20


class FolderError(InvalidInputError):
    """The folder for archives cannot be written."""


class Archives:
    """Writes and reads the archives of one namespace."""

    def __init__(self, link: Link, namespace: Namespace, objects: Objects) -> None:
        self._link = link
        self._namespace = namespace
        self._objects = objects

    async def write(self, conversation: str, content: Archived, folder: Path | None, *, by: str) -> TaskArchived:
        """Write an archive of messages and letters to `folder`, or to the object store; return the fact that says so.

        Raises `InvalidInputError` when it is too large for the object store, `FolderError` when the folder cannot be
        written, `BusUnavailableError` when it could not be stored.
        """
        if folder is None:
            reference = await self._to_store(conversation, content)
        else:
            reference = await self._to_folder(conversation, content, folder)
        return TaskArchived(
            by=by,
            first_seq=content.messages[0].seq,
            last_seq=content.messages[-1].seq,
            count=len(content.messages),
            reference=reference,
            folder=None if folder is None else str(folder),
            host=None if folder is None else socket.gethostname()[:255],
        )

    async def read(self, conversation: str, fact: TaskArchived, folder: Path | None = None) -> Archived:
        """Return what the archive that `fact` names holds; a copy of it in `folder` is preferred.

        Raises `ArchiveError` when it is not there or damaged; the message says what to do.
        """
        name = archive_name(conversation, fact.reference)
        if folder is not None and (fact.folder is None or (folder / name).exists()):
            return await asyncio.to_thread(self._read_file, conversation, fact, folder / name)
        if fact.folder is not None:
            return await asyncio.to_thread(self._read_file, conversation, fact, Path(fact.folder) / name)
        # A reader of its own: what is cached here proves nothing about what is stored.
        objects = Objects(self._link, self._namespace.bucket(OBJECTS))
        try:
            data = await objects.get(fact.reference)
        except (NotFoundError, InvalidInputError) as error:
            raise ArchiveError(
                f"the archive of {conversation} cannot be read from the object store: {error.message}; restore the "
                "bucket from a backup, or name a folder that holds a copy with --archive DIR"
            ) from error
        try:
            return read_archive(io.BytesIO(data), self._namespace, conversation)
        except ArchiveError as error:
            raise ArchiveError(f"the archive of {conversation} in the object store: {error.message}") from error

    # The object store

    async def _to_store(self, conversation: str, content: Archived) -> Reference:
        file = io.BytesIO()
        await asyncio.to_thread(lambda: ArchiveWriter(file, self._namespace, conversation, content, ()).close())
        data = file.getvalue()
        if len(data) > LARGEST_OBJECT_BYTES:
            raise InvalidInputError(
                f"the archive of {conversation} has {len(data)} bytes; the object store takes {LARGEST_OBJECT_BYTES}: "
                "archive it into a folder (--to DIR)",
                field="conversation",
                value=conversation,
            )
        return await self._objects.put(data, MEDIA_TYPE)

    # A folder

    async def _to_folder(self, conversation: str, content: Archived, folder: Path) -> Reference:
        references = await self._references((*content.messages, *content.letters))
        try:
            file = await asyncio.to_thread(_Draft, folder)
        except OSError as error:
            raise _not_written(folder, error) from error
        try:
            writer = await asyncio.to_thread(ArchiveWriter, file, self._namespace, conversation, content, references)
            for reference in references:
                await asyncio.to_thread(writer.add_object, reference, await self._object(reference))
            await asyncio.to_thread(writer.close)
            return await asyncio.to_thread(file.keep, conversation)
        except OSError as error:
            raise _not_written(folder, error) from error
        finally:
            file.discard()

    async def _references(self, messages: Sequence[StoredMessage]) -> list[Reference]:
        """Return the references to all objects that the messages need, each once."""
        found: dict[str, Reference] = {}
        for message in messages:
            for reference in references_in(message.body):
                found[reference.sha256] = reference
                if BODY_REFERENCE in message.headers and (body := await self._object(reference)) is not None:
                    found |= {inner.sha256: inner for inner in references_in(body)}
        return list(found.values())

    async def _object(self, reference: Reference) -> bytes | None:
        try:
            return await self._objects.get(reference)
        except (NotFoundError, InvalidInputError):  # what nobody can read cannot be archived, and was lost before
            return None

    def _read_file(self, conversation: str, fact: TaskArchived, path: Path) -> Archived:
        try:
            with path.open("rb") as file:
                if _sha256(file) != fact.reference.sha256:
                    raise ArchiveError(f"the archive {path} is damaged: it has another SHA-256; restore a copy of it")
                file.seek(0)
                return read_archive(file, self._namespace, conversation)
        except FileNotFoundError as error:
            raise ArchiveError(
                f"{conversation} was archived by {fact.by} into {fact.folder or 'the object store'}"
                f"{f' on {fact.host}' if fact.host else ''}, and {path} is not here: copy it there, or name the folder "
                "that holds it with --archive DIR"
            ) from error
        except OSError as error:
            raise ArchiveError(f"the archive {path} cannot be read: {error.strerror}") from error


class _Draft:
    """A file in `folder` that gets its name, which is its content's, when it is complete and on the disk."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".archive-", dir=folder)  # mode 0600
        self._file: IO[bytes] = os.fdopen(descriptor, "wb")
        self._path = Path(name)
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes, /) -> int:
        """Write, as a file does."""
        self._digest.update(data)
        self._size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush, as a file does."""
        self._file.flush()

    def keep(self, conversation: str) -> Reference:
        """Put the file on the disk under its name."""
        digest = self._digest.hexdigest()
        reference = Reference(name=digest, sha256=digest, size_bytes=self._size, media_type=MEDIA_TYPE)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(self._path.parent / archive_name(conversation, reference))
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return reference

    def discard(self) -> None:
        """Close it; remove it unless it was kept."""
        self._file.close()
        self._path.unlink(missing_ok=True)


async def with_archived(bus: Bus, conversation: str, events: list[Event], folder: Path | None) -> list[Event]:
    """Return the events of a conversation, those that were archived among them, in the order of the stream.

    `folder` is where copies of archives are looked for first. Raises `ArchiveError`.
    """
    facts = [event.data for event in events if isinstance(event.data, TaskArchived)]
    if not facts or fold_all(conversation, events).ending is None:  # what has not ended was never archived
        return events
    archives = Archives(bus.link, bus.namespace, bus.objects)
    merged = {event.seq: event for event in events}
    for fact in facts:
        archived = await archives.read(conversation, fact, folder)
        for digest, body in archived.objects.items():
            bus.objects.hold(digest, body)
        for message in archived.messages:
            if message.seq not in merged and (event := await bus.journal.event_from(message)) is not None:
                merged[message.seq] = event
    return [merged[seq] for seq in sorted(merged)]


def archive_name(conversation: str, reference: Reference) -> str:
    """Return the name of an archive's file in a folder."""
    return f"{conversation}.{reference.sha256}.jsonl.gz"


def _not_written(folder: Path, error: OSError) -> FolderError:
    return FolderError(f"--to: cannot write to {folder}: {error.strerror or error}", field="--to", value=str(folder))


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
