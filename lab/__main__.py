"""`python -m lab VERB ...`: the same verbs as `xenflow lab`."""

from __future__ import annotations

import argparse
import os
import sys

from lab import cli
from mgmt.session import UsageError
from mgmt.text import run_program
from mgmt.verbs import Exit, print_refusal
from xenflow.model.network import NetworkError


def main() -> int:
    """Run one verb; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=cli.__doc__)
    parser.set_defaults(lab=os.environ.get("XENFLOW_LAB", ""))
    cli.add_verbs(parser.add_subparsers(dest="lab_verb", metavar="VERB", required=True))
    args = parser.parse_args()
    try:
        return int(args.run(args))
    except NetworkError as error:
        status = Exit.USAGE if isinstance(error, UsageError) else Exit.FAILED
        print(f"lab: {error}", file=sys.stderr)
        print_refusal(args, error, status)
        return status


if __name__ == "__main__":
    sys.exit(run_program("lab", main))
