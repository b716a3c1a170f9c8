"""The command `slotid`: what it can do, and how it ends.

Exit codes: 0 done; 1 something given cannot be used (told as found, expected, what to do); 2 wrong usage; 130 Ctrl-C;
141 whoever read the output left (`slotid ... | head`).
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from . import __version__
from .commands import demo, encode, generate, inspect, likeness, train
from .commands import eval as evaluate
from .errors import SlotIDError, SlotIDWarning

DESCRIPTION = """\
Slot-ID: read a person's identity from a short clip, once, and carry it into generated videos (Wan 2.1 / 2.2).

  clip --encode--> identity file --generate--> video

Begin with `slotid demo`: it goes the whole way on the packaged demo models, with nothing to download."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slotid",
        description=DESCRIPTION,
        epilog="Each command explains itself: slotid encode --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"slotid {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, encode, generate, inspect, likeness, train, evaluate):
        sub = commands.add_parser(
            command.__name__.rpartition(".")[2],
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            epilog=command.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_options(sub)
        sub.set_defaults(run=command.run, parser=sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. argparse itself leaves with 2 on wrong usage, and with 0 after --help."""
    args = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("always", SlotIDWarning)
        warnings.showwarning = _tell_warning(warnings.showwarning)
        try:
            args.run(args)
        except SlotIDError as error:
            print(f"slotid: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            # Nobody is left to tell; without this Python would complain once more as it closes the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:
            print(f"slotid: {error.filename or 'a file'} cannot be used: {error.strerror or error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("slotid: stopped. No file was left half-written.", file=sys.stderr)
            return 130
    return 0


def _tell_warning(usual: Any) -> Any:
    def show(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, SlotIDWarning):
            print(f"Note: {message}", file=sys.stderr)
        else:
            usual(message, category, *args, **kwargs)

    return show
