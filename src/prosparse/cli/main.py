# SPDX-License-Identifier: Apache-2.0
"""The `prosparse` command.

Exit codes: 0 done, 2 a mistake of the user's (one sentence on stderr), 3 a training run that stopped
itself because it went wrong, 130 interrupted by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

# Progress bars of libraries would break the table; ours say what they are about.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import typer

import prosparse
from prosparse.cli import bench, predictor
from prosparse.cli.doctor import doctor
from prosparse.cli.evaluate import evaluate
from prosparse.cli.export import export
from prosparse.cli.fit import fit
from prosparse.cli.frontier import frontier
from prosparse.cli.generate import generate
from prosparse.cli.inspect import inspect
from prosparse.cli.measure import measure
from prosparse.cli.plan import plan
from prosparse.cli.push import push
from prosparse.cli.quantize import quantize
from prosparse.cli.relufy import relufy
from prosparse.cli.report import report
from prosparse.cli.serve import serve
from prosparse.cli.sparsify import sparsify
from prosparse.cli.threshold import threshold
from prosparse.cli.train import train
from prosparse.errors import RunStopped, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

USER_ERROR = 2
RUN_STOPPED = 3
INTERRUPTED = 130
# What the machine lacks, not the program: a full disk, a missing permission.
OUTSIDE_CAUSES = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)

app = typer.Typer(
    name="prosparse",
    help="Make Swish/GELU language models sparsely activated (ProSparse), and measure it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _spoken(verb: Callable[..., None]) -> Callable[..., None]:
    """Make a verb end with a sentence on stderr and an exit code where it would raise."""

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            verb(*args, **kwargs)
        except UserError as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            sys.exit(USER_ERROR)
        except RunStopped as error:
            print(str(error), file=sys.stderr)
            sys.exit(RUN_STOPPED)
        except OSError as error:
            if error.errno not in OUTSIDE_CAUSES:
                raise
            print(f"Cannot go on: {error}.", file=sys.stderr)
            sys.exit(USER_ERROR)
        except KeyboardInterrupt as error:  # here, because typer would drop what it says
            print(str(error) or "Interrupted.", file=sys.stderr)
            sys.exit(INTERRUPTED)

    return run


for verb in (sparsify, relufy, train, measure, threshold, quantize, generate, inspect, evaluate):
    app.command()(_spoken(verb))
for verb in (serve, plan, fit, frontier, export, push, report, doctor):
    app.command()(_spoken(verb))

benches = typer.Typer(no_args_is_help=True, help=bench.__doc__)
for verb in (bench.ops, bench.decode, bench.train, bench.train_step):
    benches.command()(_spoken(verb))
app.add_typer(benches, name="bench")

predictors = typer.Typer(no_args_is_help=True, help=predictor.__doc__)
predictors.command()(_spoken(predictor.fit))
predictors.command("eval")(_spoken(predictor.evaluate))
app.add_typer(predictors, name="predictor")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"prosparse {prosparse.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Make Swish/GELU language models sparsely activated (ProSparse), and measure it.

    Every verb takes any local Hugging Face folder, GGUF file or hub id, writes its results to a
    folder with a `record.json`, and is a Python function of the same name:
    `import prosparse as ps; ps.measure(...)`.
    """


def main() -> None:
    """Run the command line and exit with its code."""
    # What Ctrl-C does, so that a job that is sent away cleans up and says so too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    app()


if __name__ == "__main__":
    main()
