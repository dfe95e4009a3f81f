"""A trace as Jaeger sees it: its JSON, and the tree that its viewer draws from that.

By its documented rules an OTLP parent is a `CHILD_OF` reference and a link a `FOLLOWS_FROM` one; a span hangs from the
first `CHILD_OF` of the same trace, else from the first reference of any kind; one whose parent is not in the trace has
a warning and stands at the top; siblings are ordered by their start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.observability.receiver import Span, Value

_KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


def jaeger_json(spans: list[Span]) -> dict[str, Any]:
    """Return what `GET /api/traces/<trace id>` answers."""
    processes = {
        who: f"p{number}" for number, who in enumerate(sorted({(one.service, one.instance) for one in spans}), 1)
    }
    known = {span.id for span in spans}
    document = {
        "traceID": spans[0].trace if spans else "",
        "spans": [_span(span, processes[span.service, span.instance], known) for span in spans],
        "processes": {
            key: {"serviceName": service, "tags": [_tag("service.instance.id", instance)] if instance else []}
            for (service, instance), key in processes.items()
        },
        "warnings": None,
    }
    return {"data": [document] if spans else [], "total": 0, "limit": 0, "offset": 0, "errors": None}


def _span(span: Span, process: str, known: set[str]) -> dict[str, Any]:
    references = [{"refType": "CHILD_OF", "traceID": span.trace, "spanID": span.parent}] if span.parent else []
    references += [{"refType": "FOLLOWS_FROM", "traceID": link.trace, "spanID": link.id} for link in span.links]
    lost = bool(span.parent) and span.parent not in known
    tags = [_tag(name, value) for name, value in span.attributes.items()]
    tags += [_tag("span.kind", _KINDS.get(span.kind, "internal"))] + ([_tag("error", True)] if span.error else [])
    return {
        "traceID": span.trace,
        "spanID": span.id,
        "operationName": span.name,
        "references": references,
        "startTime": span.start_ns // 1_000,
        "duration": (span.end_ns - span.start_ns) // 1_000,
        "tags": tags,
        "logs": [],
        "processID": process,
        "warnings": [f"invalid parent span IDs={span.parent}; skipping clock skew adjustment"] if lost else None,
    }


def _tag(key: str, value: Value) -> dict[str, Any]:
    kinds: list[tuple[type, str]] = [(bool, "bool"), (int, "int64"), (float, "float64")]
    return {
        "key": key,
        "type": next((name for kind, name in kinds if isinstance(value, kind)), "string"),
        "value": value,
    }


@dataclass
class Node:
    """One span of the tree, as the JSON has it, with what hangs from it."""

    span: dict[str, Any]
    service: str
    children: list[Node] = field(default_factory=list["Node"])

    @property
    def name(self) -> str:
        """The operation."""
        return str(self.span["operationName"])

    @property
    def tags(self) -> dict[str, Any]:
        """The tags by their keys."""
        return {tag["key"]: tag["value"] for tag in self.span["tags"]}

    def walk(self) -> list[Node]:
        """Return this node and all below it, in the order in which they are drawn."""
        return [self, *(below for child in self.children for below in child.walk())]


@dataclass
class Tree:
    """A whole trace. `roots` have no parent; `orphans` name one that is not there; `twice` are ids that repeat."""

    roots: list[Node]
    orphans: list[Node]
    twice: list[str]

    def nodes(self) -> list[Node]:
        """Return every span of the tree."""
        return [node for top in (*self.roots, *self.orphans) for node in top.walk()]

    @property
    def services(self) -> set[str]:
        """Who took part."""
        return {node.service for node in self.nodes()}


def tree_of(document: dict[str, Any]) -> Tree:
    """Build the tree of what `GET /api/traces/<trace id>` answered."""
    trace = document["data"][0]
    names = {key: process["serviceName"] for key, process in trace["processes"].items()}
    spans = sorted(trace["spans"], key=lambda span: (span["startTime"], -span["duration"]))
    nodes: dict[str, Node] = {}
    twice: list[str] = []
    for span in spans:
        if span["spanID"] in nodes:
            twice.append(span["spanID"])
        nodes[span["spanID"]] = Node(span, names[span["processID"]])
    roots: list[Node] = []
    orphans: list[Node] = []
    for node in nodes.values():
        parent = _parent(node.span)
        if parent is None:
            roots.append(node)
        elif parent in nodes:
            nodes[parent].children.append(node)
        else:
            orphans.append(node)
    return Tree(roots, orphans, twice)


def _parent(span: dict[str, Any]) -> str | None:
    own = [one for one in span["references"] if one["traceID"] == span["traceID"]]
    chosen = next((one for one in own if one["refType"] == "CHILD_OF"), own[0] if own else None)
    return None if chosen is None else str(chosen["spanID"])


def drawn(tree: Tree) -> str:
    """Return the tree as text: when each span began, how long it took, who it was; a wait is a gap, said in words."""
    tops = [*tree.roots, *tree.orphans]
    began = min(node.span["startTime"] for node in tree.nodes())
    width = max(len(name) for name in tree.services)
    lines: list[str] = []
    for top in tops:
        _draw(top, None, began, "", "", width, lines)
    return "\n".join(lines)


def _draw(node: Node, above: Node | None, began: int, first: str, rest: str, width: int, lines: list[str]) -> None:
    span, tags = node.span, node.tags
    start, took = span["startTime"], span["duration"]
    said = [str(tags[key]) for key in ("motet.step",) if key in tags]
    if "motet.attempt" in tags:
        said.append(f"attempt {tags['motet.attempt']}")
    if tags.get("motet.deliveries", 1) != 1:
        said.append(f"delivery {tags['motet.deliveries']}")
    said += [f"→ {tags[key]}" for key in ("motet.outcome", "motet.question.decision") if key in tags]
    said += ["handed back"] if tags.get("motet.handed_back") else []
    said += [f"! {tags['error.type']}"] if "error.type" in tags else []
    links = sum(one["refType"] == "FOLLOWS_FROM" for one in span["references"])
    said += [f"+{links} link{'s' if links > 1 else ''}"] if links else []
    waited = start - (above.span["startTime"] + above.span["duration"]) if above is not None else 0
    said += [f"({_seconds(waited)} after)"] if waited > 1_000_000 else []
    head = f"{_seconds(start - began):>10} {_seconds(took):>9}  {node.service:<{width}}  "
    lines.append(head + first + " ".join([node.name, *said]))
    for child in node.children:
        last = child is node.children[-1]
        _draw(
            child, node, began, f"{rest}{'└─ ' if last else '├─ '}", f"{rest}{'   ' if last else '│  '}", width, lines
        )


def _seconds(microseconds: int) -> str:
    seconds = microseconds / 1_000_000
    if seconds >= 3_600:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1_000:.1f} ms"
