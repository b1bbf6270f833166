"""What a test of a whole lab needs of the machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

import pytest


def needs(programs: Iterable[str]) -> list[pytest.MarkDecorator]:
    """The marks of a module whose tests bring labs up: it is skipped without root, or where one of
    these programs is missing."""
    programs = tuple(programs)
    return [
        pytest.mark.lab,
        pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
        pytest.mark.skipif(
            not all(map(shutil.which, programs)), reason=f"needs {', '.join(programs)}"
        ),
    ]
