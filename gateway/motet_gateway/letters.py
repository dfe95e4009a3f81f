"""Dead letters as documents and tables: what `motet dead` prints."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from motet_gateway.terminal import one_line
from motet_schemas.printing import printable

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from motet_bus.letters import KeptLetter


def letter_document(kept: KeptLetter) -> dict[str, Any]:
    """Return one letter as `motet dead list --json` shows it. Times are the server's, but for `first_failed_at`."""
    letter = kept.letter
    acted = {"by": kept.by, "at": kept.acted_at.isoformat(), "reason": kept.reason} if kept.acted_at else None
    return {
        "id": kept.id,
        "status": kept.status,
        "conversation": kept.conversation,
        "consumer": letter.consumer,
        "subject": letter.subject,
        "message": kept.message,
        "tries": letter.deliveries,
        "stored_at": letter.stored_at.isoformat(),
        "first_failed_at": kept.first_failed_at.isoformat(),
        "last_failed_at": kept.died_at.isoformat(),
        "agent": kept.agent or None,
        "instance": letter.instance or None,
        "version": letter.version or None,
        "failure": json.loads(letter.failure.model_dump_json()),
        "acted": acted,
    }


def whole_letter_document(kept: KeptLetter, payload: bytes | str) -> dict[str, Any]:
    """Return one letter as `motet dead show --json` shows it; a `payload` in words says why there is none."""
    body = {"missing": payload} if isinstance(payload, str) else payload_document(payload)
    return {
        **letter_document(kept),
        "headers": dict(kept.letter.headers),
        "stack": kept.letter.stack,
        "payload": body,
    }


def payload_document(body: bytes) -> dict[str, Any]:
    """Return a body as what it is: JSON, text, or base64. `bytes` is its size."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return {"encoding": "base64", "bytes": len(body), "data": base64.b64encode(body).decode()}
    try:
        return {"encoding": "json", "bytes": len(body), "data": json.loads(text, parse_constant=_no_constant)}
    except (ValueError, RecursionError):
        return {"encoding": "text", "bytes": len(body), "data": text}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def letters_table(documents: Sequence[dict[str, Any]], *, acted: bool) -> RenderableType:
    """Return the table of `motet dead list`; `acted` shows what was done with each."""
    if not documents:
        return "no dead letters"
    from motet_gateway.tables import FittingTable

    headings = ["letter", "conversation", "code", "tries", "last failed", "agent", "cause"]
    headings[1:1] = ["status"] if acted else []
    spare = ("agent", "tries", "last failed", "code", "conversation")
    table = FittingTable(*headings, spare=spare, cut=("agent", "conversation"))
    for one in documents:
        row = [one["id"], one["conversation"] or "(none)", one["failure"]["code"], str(one["tries"])]
        row += [one["last_failed_at"][:19], one["agent"] or "", one_line(one["failure"]["message"])]
        row[1:1] = [_status(one)] if acted else []
        table.add_row(*row)
    return table


def _status(document: dict[str, Any]) -> str:
    acted = document["acted"]
    return document["status"] if acted is None else f"{document['status']} by {one_line(acted['by'], 30)}"


def whole_letter(document: dict[str, Any]) -> Group:
    """Return what `motet dead show` prints."""
    from rich.console import Group
    from rich.text import Text

    from motet_gateway.tables import Labelled

    failure, acted = document["failure"], document["acted"]
    what = f"{failure['type']} ({failure['code']})" if failure["type"] else failure["code"]
    again = "" if document["id"].endswith(f"-{document['message']}") else ", after a retry"
    lines = {
        "cause": f"{what}: {failure['message']}",
        "message": f"{document['subject']} (sequence {document['message']}{again})",
        "consumer": document["consumer"],
        "agent": f"{document['instance'] or 'unknown'}, Motet {document['version'] or 'of unknown version'}",
        "tries": str(document["tries"]),
        "stored": document["stored_at"],
        "failed": f"first {document['first_failed_at']}, last {document['last_failed_at']}",
    }
    if acted:
        why = f": {acted['reason']}" if acted["reason"] else ""
        lines[document["status"]] = f"by {acted['by']} at {acted['at']}{why}"
    parts: list[RenderableType] = [Text.assemble((document["id"], "bold"), f" · {document['status']}")]
    parts += [Labelled(name, printable(text), width=11) for name, text in lines.items()]
    parts.append(Text("\nHeaders", style="bold"))
    parts += [Text(f"  {one_line(name, None)}: {one_line(value, None)}") for name, value in document["headers"].items()]
    parts += [Text("\nPayload", style="bold"), Text(printable(_payload(document["payload"])))]
    if document["stack"]:
        parts += [Text("\nStack", style="bold"), Text(printable(document["stack"].rstrip()))]
    return Group(*parts)


def _payload(payload: dict[str, Any]) -> str:
    if "missing" in payload:
        return f"(missing: {payload['missing']})"
    if payload["encoding"] == "json":
        return json.dumps(payload["data"], indent=2, ensure_ascii=False)
    return str(payload["data"]) if payload["bytes"] else "(empty)"
