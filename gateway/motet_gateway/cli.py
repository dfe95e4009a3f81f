"""The entry point of `motet`: parses, runs one command, and turns whatever happens into an exit status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from motet_gateway import exits

if TYPE_CHECKING:
    import typer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `motet` with `arguments` (default: those of this process) and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        return _run(given, as_json=as_json)
    except exits.Interrupted as interruption:
        exits.report_error("stopped", code="interrupted", as_json=as_json)
        return exits.SIGNALLED + interruption.number
    except KeyboardInterrupt:
        return exits.SIGNALLED + signal.SIGINT


def _run(arguments: list[str], *, as_json: bool) -> int:
    import typer
    import typer.main

    from motet_gateway.app import build_app

    try:
        result = typer.main.get_command(build_app())(arguments, prog_name="motet", standalone_mode=False)
    except typer.TyperException as error:
        return _bad_usage(error, as_json=as_json)
    except typer.Abort:
        return exits.SIGNALLED + signal.SIGINT
    except (KeyboardInterrupt, exits.Interrupted):
        raise
    except Exception as error:  # noqa: BLE001 - the last resort: a stack trace never meets a user
        return _failed(error, as_json=as_json)
    return result if isinstance(result, int) else exits.COMPLETED


def _bad_usage(error: typer.TyperException, *, as_json: bool) -> int:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if not message:  # a bare `motet` has shown its help already
        return error.exit_code
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    exits.report_error(f"{message}{hint}", code="usage", as_json=as_json)
    return error.exit_code


def _failed(error: Exception, *, as_json: bool) -> int:
    from motet_schemas.errors import InvalidInputError, MotetError

    if isinstance(error, MotetError):
        field, rule = (error.field, error.rule) if isinstance(error, InvalidInputError) else (None, None)
        exits.report_error(
            error.message, code=error.code, as_json=as_json, field=field, rule=rule, retryable=error.retryable
        )
        return exits.exit_status(error)
    saved = exits.save_traceback(error)
    where = f"; the details are in {saved}" if saved else ""
    exits.report_error(
        f"an unexpected error, which is a defect of Motet: {type(error).__name__}: {error}{where}",
        code="unexpected",
        as_json=as_json,
    )
    return exits.FAILED


if __name__ == "__main__":
    sys.exit(main())
