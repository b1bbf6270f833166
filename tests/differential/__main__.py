"""`python -m tests.differential [--reactive] [SEED [CONFIGURATION]]`: by hand, as root.

With a seed alone: all its configurations; with one of them too: that one, and what was sent.
"""

from __future__ import annotations

import sys
import time

from tests.differential.compare import Report
from tests.differential.rig import rig
from tests.differential.trial import run

CONFIGURATIONS, CASES = 44, 240


def main(argv: list[str]) -> int:
    """Returns the exit status."""
    pipeline = "reactive" if "--reactive" in argv else "proactive"
    argv = [word for word in argv if word != "--reactive"]
    seed = argv[0] if argv else f"{time.time_ns() & 0xFFFFFF:x}"
    only = [int(text) for text in argv[1:]]
    began = time.monotonic()
    total = Report()
    with rig(pipeline) as made:
        for number in only or range(CONFIGURATIONS):
            trial = run(made, f"{seed}-{number}", CASES, number * CASES)
            print(f"{time.monotonic() - began:6.1f} s  {trial}", flush=True)
            for difference in trial.report.differences[: 100 if only else 3]:
                print(difference)
            total.add(trial.report)
    print(f"seed {seed}: {total}")
    return int(bool(total.differences))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
