"""The test bed's own copy of the routers' image."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.namespace import LabError
from tests.xen.bed import router


def test_an_image_that_cannot_be_built_is_told_as_the_beds_errors_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m tests.xen.bed` shows those without a traceback."""
    monkeypatch.setenv("XENFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="apt-cache is not installed"):
        router.image(lambda text: None)
