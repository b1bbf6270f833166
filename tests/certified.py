"""Certificates for tests, made with openssl: an authority, and folders as `Certificates` names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from xenflow.store.certificates import Certificates

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")


class Authority:
    """Who signs."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self._key, self.certificate = self._folder / "ca-key.pem", self._folder / "ca.pem"
        _make_key(self._key)
        words = ("-x509", "-key", self._key, "-subj", f"/CN={name}", "-out", self.certificate)
        _openssl("req", *words)

    def signs(self, name: str, address: str = "127.0.0.1") -> Certificates:
        """A folder for one that is called so, whose servers are at an address."""
        made = Certificates(self._folder / name)
        made.folder.mkdir()
        _make_key(made.key)
        shutil.copy(self.certificate, made.ca)
        request, more = made.folder / "request", made.folder / "more"
        _openssl("req", "-new", "-key", made.key, "-subj", f"/CN={name}", "-out", request)
        more.write_text(f"subjectAltName=IP:{address}")
        by = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-extfile", more)
        _openssl("x509", "-req", "-in", request, *by, "-out", made.certificate)
        return made


def _make_key(path: Path) -> None:
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)


def _openssl(*words: str | Path) -> None:
    subprocess.run(("openssl", *words), check=True, capture_output=True)
