"""The command line: parses arguments and prints. Commands import what they need when they run."""

from __future__ import annotations

import atexit
import errno
import logging
import signal
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from casewise.cli.predict import bundle, predict
from casewise.cli.run import audit, backbones, look, results, run, status, validate
from casewise.errors import CasewiseError
from casewise.plugin import Command, Plugin, plugins
from casewise.version import __version__

_TRAINED = "Networks are trained by `casewise run STUDY`."
_EVALUATED = "`casewise run STUDY` also tests what it trains; `casewise predict` applies it to new cases."
# Commands of other programs, and which of ours do the same.
OTHERS = {
    **dict.fromkeys(("fit", "train"), _TRAINED),
    **dict.fromkeys(("eval", "evaluate", "test"), _EVALUATED),
    "report": "`casewise run STUDY` writes report.html into the run folder; `casewise results RUN` prints its figures.",
}


class _Commands(typer.core.TyperGroup):
    """The commands; known names of other programs are answered with the command that does the same."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # typer has contexts of click, or of its own copy
        if args[0] in OTHERS:
            raise CasewiseError(f"There is no command {args[0]!r}. {OTHERS[args[0]]}")
        return super().resolve_command(ctx, args)


# What is wrong with a path that a user names, whichever it is.
UNSUITABLE = {
    errno.ENAMETOOLONG: "has a name that is longer than the disk allows. Choose a shorter one.",
    errno.EISDIR: "is a folder. Name a file.",
}


TOO_LITTLE_MEMORY = (
    "There is not enough memory. Close other programs, or lift the limit of this process (`ulimit -v`). Then "
    "give the same command again; what is finished is kept."
)


class _Warnings(logging.Handler):
    """Prints the warnings of libraries and of casewise as its other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        from casewise.console import print_error

        print_error(record.getMessage())


class _Stopped(SystemExit):
    """Raised in the main thread by SIGTERM, so that locks are released and temporary files removed."""


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise _Stopped(128 + signal.SIGTERM)


app = typer.Typer(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train and evaluate image models for clinical studies. Start with `casewise init`.",
)


def _show_version(requested: bool) -> None:
    if requested:
        print(f"casewise {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command(short_help="Run a study to its report; run it again to continue.")(run)
app.command(short_help="Say how far a run is, also while it works.")(status)
app.command(short_help="Check study file, table and split; train nothing.")(validate)
app.command(short_help="Search for duplicates, leaks and shortcuts before training.")(audit)
app.command(short_help="Show panels of each class as networks will see them.")(look)
app.command(short_help="Print a run's results, or write them as a Markdown page.")(results)
app.command(short_help="Predict new cases with a trained model.")(predict)
app.command(short_help="Write a run's trained model as one file.")(bundle)
app.command(short_help="List the names of backbones.")(backbones)


@lru_cache
def command_line() -> typer.Typer:
    """The commands of the core and of all plugins.

    Raises:
        CasewiseError: a plugin cannot be loaded.
    """
    for plugin in plugins():
        for command in _commands(plugin):
            if isinstance(command.run, typer.Typer):
                app.add_typer(command.run, name=command.name, short_help=command.help)
            else:
                extra = {"allow_extra_args": command.reads_extra}
                app.command(command.name, short_help=command.help, context_settings=extra)(command.run)
            if command.after in _names()[:-1]:
                listed = app.registered_commands
                listed.insert(_names().index(command.after) + 1, listed.pop())
    return app


def _names() -> list[str]:
    """The names of the commands that were added so far."""
    return [str(entry.name or getattr(entry.callback, "__name__", "")) for entry in app.registered_commands]


def _commands(plugin: Plugin) -> Sequence[Command]:
    """The commands of a plugin.

    Raises:
        CasewiseError: it fails, or a command has the name of another one.
    """
    try:
        commands = list(plugin.commands())
        if unsuitable := [each for each in commands if not isinstance(each, Command)]:
            raise TypeError(f"{unsuitable[0]!r} is no casewise.plugin.Command")
    except Exception as error:  # whatever a package of somebody else raises
        if plugin.is_own:
            raise
        raise CasewiseError(
            f"The plugin {plugin.name} of {type(plugin).__module__} has no commands ({type(error).__name__}: {error}). "
            "Remove its package, or install a version for this casewise."
        ) from error
    taken = {*_names(), *(str(group.name) for group in app.registered_groups)} & {command.name for command in commands}
    if taken:
        raise CasewiseError(
            f"The plugin {plugin.name} of {type(plugin).__module__} has a command that is there already: "
            f"{', '.join(sorted(taken))}. Remove its package."
        )
    return commands


def main() -> None:
    """Run the command line; a user's mistake gives one message and exit code 2, Ctrl-C gives 130, SIGTERM 143."""
    from casewise.console import end_process, print_error
    from casewise.files import REMEDIES, storage_message

    code = 1
    if getattr(sys.modules["__main__"], "main", None) is main:  # not where another program calls it
        atexit.register(lambda: end_process(code))  # the last of all that is done at the exit
        signal.signal(signal.SIGTERM, _stop)
        logging.lastResort = _Warnings(logging.WARNING)
    try:
        command_line()()
        code = 0
    except CasewiseError as error:
        print_error(f"error: {error}")
        code = 2
    except OSError as error:
        where = Path(str(error.filename or "the output"))  # such as of a page that is sent to a file by the shell
        if error.errno in UNSUITABLE:
            message = f"{where} {UNSUITABLE[error.errno]}"
        elif error.errno in REMEDIES and error.errno != errno.ENOENT:  # a missing file may be a fault of casewise
            message = storage_message(error, where)
        else:
            raise
        print_error(f"error: {message}")
        code = 2
    except (MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and "failed to map segment" not in str(error):
            raise
        print_error(f"error: {TOO_LITTLE_MEMORY}")
        code = 2
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end, _Stopped):
            how = "; run again to continue" if sys.argv[1:2] == ["run"] else ""
            print(f"\nstopped{how}", file=sys.stderr)
        raise
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
