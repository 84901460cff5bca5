"""The commands put together, and the one place where exceptions become lines and exit codes."""

from __future__ import annotations

import typer
from rich.console import Console

from ..errors import InvalidArgument, SolverError
from .info import info
from .plot import plot
from .sample import sample
from .train import train

app = typer.Typer(
    name="fastode",
    help="Train continuous normalizing flows, sample from them and draw them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(train)
app.command()(sample)
app.command()(plot)
app.command()(info)

# typer's own usage errors, whether it stands on click (ClickException) or on its copy of it
_UsageProblem = typer.BadParameter.__mro__[2]


def run(argv: list[str]) -> int:
    """Run the command line ``argv`` and return the exit code."""
    try:
        code = app(argv, prog_name="fastode", standalone_mode=False)
    except InvalidArgument as error:
        return _fail(str(error), 2)
    except SolverError as error:
        return _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except typer.Exit as error:
        return int(error.exit_code)
    except Exception as error:
        if isinstance(error, _UsageProblem):
            return _fail(error.format_message(), 2)  # type: ignore[attr-defined]
        raise
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    if message:
        line = " ".join(message.split())
        Console(stderr=True, soft_wrap=True).print(f"[bold red]fastode:[/] {_plain(line)}", highlight=False)
    return code


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
