"""The program `xenflow`, also as `python -m mgmt`: runs `mgmt.cli`.

An interrupt (Ctrl-C) ends it without a traceback, also while all that it needs is imported.
"""

import sys


def main() -> int:
    """Returns the exit status."""
    try:
        from mgmt import cli

        return cli.main()
    except KeyboardInterrupt:
        print("xenflow: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
