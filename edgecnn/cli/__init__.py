"""The command line: one thin function per verb, which builds recipe steps from flags and calls the public API.

Nothing heavy is imported here or in the verb modules outside function bodies: ``edgecnn --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from edgecnn.cli import compare, finding, look, make, preview, split
from edgecnn.errors import EdgecnnError, StoppedError

app = typer.Typer(
    name="edgecnn",
    help="From a folder of pictures to a compressed, verified and benchmarked image classifier on the device.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)


def _versions(wanted: bool) -> None:
    if wanted:
        look.print_versions()
        raise typer.Exit


@app.callback()
def edgecnn(
    version: Annotated[
        bool, typer.Option("--version", callback=_versions, is_eager=True, help="Print versions and stop.")
    ] = False,
) -> None:
    """Options of the program itself; its help is that of ``app``."""


VERBS: tuple[Callable[..., None], ...] = (
    make.run,
    make.train,
    finding.find_lr,
    finding.find_batch,
    make.compress,
    make.export,
    compare.verify,
    compare.benchmark,
    compare.report,
    compare.evaluate,
    look.predict,
    look.inspect,
    look.diagnose,
    look.recipes,
    look.doctor,
)
for verb in VERBS:
    app.command()(verb)
look.data_app.command()(preview.preview)
look.data_app.command()(split.split)
app.add_typer(look.data_app, name="data")


def main() -> None:
    """Run the command line; errors that a user can cure are told in words and give their exit code."""
    from edgecnn.train.stopping import leaving_on_sigterm

    try:
        with leaving_on_sigterm():
            app()
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except EdgecnnError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.strerror}: {error.filename}", file=sys.stderr)
        sys.exit(EdgecnnError.exit_code)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
