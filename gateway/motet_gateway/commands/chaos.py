"""`motet chaos`: kill, freeze and cut off everything under load, and let the oracle judge what is recorded."""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from motet_gateway import exits
from motet_gateway.invocation import Invocation, command

if TYPE_CHECKING:
    from motet_gateway.chaos.engine import Progress, Tell

PANEL: Final = "Tools"
_LINE_EVERY_S: Final = 10.0
_AUDITED_EVERY: Final = 1_000


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "chaos", panel=PANEL)(chaos)


def chaos(
    invocation: Invocation,
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, max=1_440, help="How long faults go on.")] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Repeats a choice of faults; random by default.")] = None,
    rate: Annotated[
        float | None,
        typer.Option("--conversations-per-s", min=0.1, max=1_000, help="By default as many as the machine sustains."),
    ] = None,
) -> int:
    """Prove on this machine that every fact is recorded once, whatever is killed.

    Starts a server and agents of its own, on a store of its own, and touches
    nothing else. Exit status: 0 every promise was kept, 1 one was broken.
    """
    from motet_gateway.chaos.engine import Plan, Run
    from motet_gateway.chaos.verdict import memory_table, to_document, to_lines
    from motet_gateway.lifecycle import run_until_done
    from motet_gateway.terminal import print_json, print_result
    from motet_observability import set_up_logs

    set_up_logs("error", invocation.settings.log_format)  # that children die is no news here
    plan = Plan(seconds=minutes * 60, seed=secrets.randbelow(10**6) if seed is None else seed, rate=rate)
    store = _new_store(invocation.settings.store)
    held = False
    try:
        with _shown() as tell:
            verdict = run_until_done(lambda: Run(plan, store, tell).verdict())
        held = verdict.held
    except exits.Interrupted:
        held = True
        raise
    finally:
        if held:
            shutil.rmtree(store, ignore_errors=True)
    if invocation.json:
        print_json(to_document(verdict))
    else:
        print_result("\n".join(to_lines(verdict)))
        print_result(memory_table(verdict))
    return exits.COMPLETED if verdict.held else exits.FAILED


def _new_store(folder: Path | None) -> Path:
    """Make a store that nobody has used: a folder in `folder`, or among the temporary files."""
    from motet_schemas import InvalidInputError

    try:
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="motet-chaos-", dir=folder))
    except OSError as error:
        raise InvalidInputError(
            f"store: cannot make a folder in {folder or tempfile.gettempdir()}: {error.strerror}; "
            "name another with --store",
            field="store",
            value=str(folder),
        ) from error


@contextmanager
def _shown() -> Generator[Tell]:
    """Show progress on standard error: one line that changes in a terminal, a line now and then elsewhere."""
    from motet_gateway.chaos.verdict import progress_line
    from motet_gateway.terminal import console, note

    if sys.stderr.isatty():
        with console(sys.stderr).status("starting") as status:
            yield lambda progress: status.update(progress_line(progress))
        return
    told: dict[str, float] = {}

    def tell(progress: Progress) -> None:
        every = _AUDITED_EVERY if progress.phase == "auditing" else _LINE_EVERY_S
        at = progress.audited if progress.phase == "auditing" else progress.at_s
        if progress.phase not in told or at - told[progress.phase] >= every:
            told[progress.phase] = at
            note(f"motet chaos: {progress_line(progress)}")

    yield tell
