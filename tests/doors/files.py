"""Files as nobody should write them, and every door that reads a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from motet_agents.playbooks import load_playbooks
from motet_bus.connect_options import ConnectOptions, client_arguments, parse_url
from motet_gateway.commands import desk
from motet_gateway.config import load_settings
from motet_gateway.taskfile import check_task, load_task
from motet_schemas import InvalidInputError

_LINK: Final = "input.yaml"


def _task(path: Path) -> object:
    return load_task(path)


def _checklist(path: Path) -> object:
    task = path.parent / "task-with-checklist.json"
    task.write_text(json.dumps({"kind": "content-qa", "input": {"text": "x"}, "checklist": str(path)}))
    return check_task(load_task(task), load_playbooks(), "task")


def _draft(path: Path) -> object:
    task = path.parent / "task-with-draft.json"
    task.write_text(json.dumps({"kind": "content-qa", "input": {"draft": str(path)}}))
    return load_task(task)


def _playbook(path: Path) -> object:
    return load_playbooks([_alone(path, "playbook.yaml")])


def _settings(path: Path) -> object:
    return load_settings(environ={}, directory=_alone(path, "motet.yaml"))


def _result(path: Path) -> object:
    return desk._answer_of(False, None, False, path, note="", by="ann")  # pyright: ignore[reportPrivateUsage]


def _alone(path: Path, name: str) -> Path:
    """Return a folder in which the file stands alone, under another name."""
    folder = path.parent / f"{path.name}-{name}"
    folder.mkdir(exist_ok=True)
    link = folder / name
    if not link.is_symlink():
        link.symlink_to(path)
    return folder


def _secret(field: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        changes: dict[str, Any] = {field: path}
        options = replace(ConnectOptions(), **changes)
        return client_arguments(options, parse_url(options))

    return read


DOORS: Final[dict[str, Callable[[Path], object]]] = {
    "task": _task,
    "checklist": _checklist,
    "draft": _draft,
    "playbook": _playbook,
    "settings": _settings,
    "result": _result,
    **{field: _secret(field) for field in ("creds", "nkey", "tls_ca")},
}
READERS: Final = ("task", "checklist", "playbook", "settings", "result")
"""The doors that parse YAML and JSON."""


def _aliases(leaf: str, levels: int, width: int) -> str:
    lines = [f"a0: &a0 {leaf}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def bombs() -> dict[str, bytes]:
    """Return small files that would become something huge, by their name."""
    texts = {
        "laughs.yaml": _aliases("[x, x, x, x, x, x, x, x, x, x]", 12, 10),
        "long-laughs.yaml": f"a: &a {'x' * 50_000}\nb: [{', '.join(['*a'] * 400)}]\n",
        "values.yaml": "- a\n" * 51_000,
        "deep.yaml": "[" * 100_000,
        "deep-keys.yaml": "? " * 200_000,
        "itself.yaml": "a: &a [*a]\n",
        "number.yaml": f"a: {'9' * 100_000}\n",
        "hex.yaml": f"a: 0x{'f' * 100_000}\n",
        "sixty.yaml": "a: " + "1:" * 5_000 + "1\n",
        "float.yaml": f"a: {'9' * 100_000}.5e99999\n",
        "far.yaml": 'a: "\\UFFFFFFFF"\n',
        "half.yaml": 'a: "\\uD800"\n',
        "half-raw.yaml": "a: x\n\x1b[31mb: y\n",
        "key.yaml": f"{'k' * 900}: 1\n",
        "escape.yaml": '"\\e[31mk": 1\n',
        "tag.yaml": "!!python/object/apply:os.system [true]\n",
        "binary.yaml": "a: !!binary aGk=\n",
        "merge.yaml": "a: &a {x: 1}\nb: {<<: *a}\n<<: *a\n",
        "values.json": "[" + "[]," * 60_000 + "1]",
        "pairs.json": "{" + ",".join(f'"k{n}":0' for n in range(30_000)) + "}",
        "deep.json": "[" * 2_000_000,
        "deep-pairs.json": '{"a":' * 500_000,
        "number.json": f'{{"kind": "x", "input": {{"n": {"9" * 2_000_000}}}}}',
        "endless.json": '{"kind": "x", "input": {"n": 1e999}}',
        "nan.json": '{"kind": "x", "input": {"n": NaN}}',
        "infinity.json": '{"kind": "x", "input": {"n": -Infinity}}',
        "half.json": '{"kind": "x", "input": {"n": "\\ud800"}}',
        "half-key.json": '{"kind": "x", "input": {"\\udfff": 1}}',
        "twice.json": '{"kind": "x", "kind": "y"}',
        "escape.json": '{"\\u001b[31mkind": "x"}',
    }
    files = {name: text.encode("utf-8", "surrogatepass") for name, text in texts.items()}
    files["latin.yaml"] = "kind: café".encode("latin-1")
    files["utf16.json"] = '{"kind": "x"}'.encode("utf-16")
    files["nul.yaml"] = b"a: \x00\n"
    return files


def strange(folder: Path) -> list[Path]:
    """Make what is no ordinary file, one of each: a pipe, links to devices and to nothing, 1 GiB of holes."""
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "terminal").symlink_to("/dev/tty")
    (folder / "loop").symlink_to("loop")
    (folder / "nothing").symlink_to("gone")
    (folder / "directory").mkdir()
    with (folder / "huge").open("wb") as huge:
        huge.truncate(1 << 30)
    return [folder / name for name in ("pipe", "zero", "terminal", "loop", "nothing", "directory", "huge")]


def try_doors(folder: str, names: str, doors: str) -> dict[str, str]:
    """Put each file through each door; say what became of it: the error's message, or nothing when it was taken."""
    said: dict[str, str] = {}
    for name in names.split(","):
        for door in doors.split(","):
            try:
                DOORS[door](Path(folder) / name)
            except InvalidInputError as error:
                said[f"{name} at {door}"] = error.message or "an error without words"
            else:
                said[f"{name} at {door}"] = ""
    return said
