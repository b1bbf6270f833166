"""`python -m lab VERB ...`: the same verbs as `xenflow lab`."""

from __future__ import annotations

import argparse
import os
import sys

from lab import cli
from mgmt.session import UsageError
from mgmt.text import run_program
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
        print(f"lab: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    sys.exit(run_program("lab", main))
