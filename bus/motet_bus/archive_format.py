"""One archive: gzip-compressed JSON lines that hold a conversation's messages as the stream had them.

The first line says what must follow; then one line a message, one for each of its dead letters, one for each object
that they refer to. The same messages make the same bytes, so that archiving again after a crash changes nothing.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any, ClassVar, Final, Protocol, cast

from motet_bus.answers import StoredMessage
from motet_schemas import MotetError, Namespace, Reference

FORMAT: Final = "motet-archive"
VERSION: Final = 1
MEDIA_TYPE: Final = "application/gzip"
_LONGEST_LINE: Final = 100 << 20  # an object of 64 MiB in base64
_LEVEL: Final = 6


class ArchiveError(MotetError):
    """An archive that cannot be read: it is not there, or it is not what was written."""

    code: ClassVar[str] = "archive_unreadable"


@dataclass(frozen=True, slots=True)
class Archived:
    """What an archive holds: messages and dead letters in order, and the bodies of objects by their SHA-256."""

    messages: tuple[StoredMessage, ...]
    letters: tuple[StoredMessage, ...] = ()
    objects: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


class Sink(Protocol):
    """What an archive is written into."""

    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...


class ArchiveWriter:
    """Writes one archive into `file`. Write all objects, then `close`; the file stays open."""

    def __init__(
        self, file: Sink, namespace: Namespace, conversation: str, content: Archived, references: Sequence[Reference]
    ) -> None:
        """Write messages and letters of `content`; the objects of `references` follow by `add_object`."""
        messages = content.messages
        # No name and no time in the header of gzip: the same content is the same bytes.
        self._packed = gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=_LEVEL, mtime=0)
        lines = [_line(_message_document(namespace, message)) for message in (*messages, *content.letters)]
        header = {
            "format": FORMAT,
            "version": VERSION,
            "namespace": namespace.name,
            "conversation": conversation,
            "first_seq": messages[0].seq,
            "last_seq": messages[-1].seq,
            "count": len(messages),
            "letters": len(content.letters),
            "objects": len(references),
            "sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
        }
        self._packed.write(_line(header))
        self._packed.writelines(lines)

    def add_object(self, reference: Reference, body: bytes | None) -> None:
        """Write an object; None when the object store has lost it, so that the archive says so."""
        described: dict[str, Any] = {"object": reference.sha256, "media_type": reference.media_type}
        self._packed.write(_line({**described, "missing": True} if body is None else {**described, **_body(body)}))

    def close(self) -> None:
        """Finish the compressed stream."""
        self._packed.close()


def read_archive(file: IO[bytes], namespace: Namespace, conversation: str) -> Archived:
    """Return what an archive of `conversation` holds, with subjects as they stand in `namespace`.

    Raises `ArchiveError` when it is damaged, of another conversation, or of a version that this Motet cannot read.
    """
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as packed:
            return _read(packed, namespace, conversation)
    except ArchiveError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise ArchiveError(f"it is damaged: {error or type(error).__name__}") from error


def _read(packed: gzip.GzipFile, namespace: Namespace, conversation: str) -> Archived:
    header = _document(_next_line(packed))
    if header.get("format") != FORMAT:
        raise ArchiveError("it is no archive of Motet")
    if not isinstance(header.get("version"), int) or header["version"] > VERSION:
        raise ArchiveError(
            f"it has version {header.get('version')}, this Motet reads up to {VERSION}: upgrade this process"
        )
    if header["conversation"] != conversation:
        raise ArchiveError(f"it holds the conversation {header['conversation']}")
    digest = hashlib.sha256()
    stored: list[StoredMessage] = []
    for _ in range(header["count"] + header["letters"]):
        line = _next_line(packed)
        digest.update(line)
        stored.append(_message(namespace, _document(line)))
    if digest.hexdigest() != header["sha256"]:
        raise ArchiveError("it is damaged: its messages have another SHA-256")
    objects: dict[str, bytes] = {}
    for _ in range(header["objects"]):
        document = _document(_next_line(packed))
        if "missing" not in document:
            body = _body_of(document)
            if hashlib.sha256(body).hexdigest() != document["object"]:
                raise ArchiveError(f"it is damaged: its object {document['object']} has another SHA-256")
            objects[document["object"]] = body
    if packed.read(1):
        raise ArchiveError("it is damaged: there is more than its first line says")
    return Archived(tuple(stored[: header["count"]]), tuple(stored[header["count"] :]), objects)


def _next_line(packed: gzip.GzipFile) -> bytes:
    line = packed.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise ArchiveError("it is damaged: it ends too early")
    return line


def _message_document(namespace: Namespace, message: StoredMessage) -> dict[str, Any]:
    return {
        "seq": message.seq,
        "subject": namespace.strip(message.subject),
        "time": message.time.isoformat(),
        "headers": dict(message.headers),
        **_body(message.body),
    }


def _message(namespace: Namespace, document: dict[str, Any]) -> StoredMessage:
    return StoredMessage(
        subject=namespace.wire(str(document["subject"])),
        headers=cast("dict[str, str]", document["headers"]),
        body=_body_of(document),
        seq=int(document["seq"]),
        time=datetime.fromisoformat(document["time"]),
    )


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _body_of(document: dict[str, Any]) -> bytes:
    if "body" in document:
        return str(document["body"]).encode()
    return base64.b64decode(document["body_base64"], validate=True)


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _document(line: bytes) -> dict[str, Any]:
    parsed: object = json.loads(line)
    if not isinstance(parsed, dict):
        raise ArchiveError("it is damaged: a line is no JSON object")
    return cast("dict[str, Any]", parsed)


def references_in(body: bytes) -> list[Reference]:
    """Return the references to objects that a JSON body holds at any depth; none for what is no JSON."""
    try:
        level: list[object] = [json.loads(body)]
    except (ValueError, RecursionError):
        return []
    found: list[Reference] = []
    while level:
        one = level.pop()
        if isinstance(one, list):
            level += cast("list[object]", one)
        elif isinstance(one, dict):
            fields = cast("dict[str, object]", one)
            if (reference := _reference(fields)) is not None:
                found.append(reference)
            else:
                level += fields.values()
    return found


def _reference(fields: dict[str, object]) -> Reference | None:
    if not {"name", "sha256", "size_bytes"} <= fields.keys():
        return None
    try:
        return Reference.model_validate(fields)
    except ValueError:
        return None
