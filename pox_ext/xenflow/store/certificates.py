"""The certificates with which a process of the store speaks TLS: three files in one folder.

The operator makes them (docs/store.md); here they are only named and read.  Each process reads them
anew for every connection, so that renewed ones need no restart.  Used by the client
(`ovsdb_store.py`) and by who starts a server (`server.py`).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


class CertificateError(Exception):
    """A file is missing, or is not what its name says."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Those in one folder, in PEM form each."""

    folder: Path

    @property
    def key(self) -> Path:
        """The private key."""
        return self.folder / "key.pem"

    @property
    def certificate(self) -> Path:
        """The certificate of that key; its common name is the controller's, where it is one's."""
        return self.folder / "certificate.pem"

    @property
    def ca(self) -> Path:
        """The certificates of those who may have signed another's."""
        return self.folder / "ca.pem"

    def check(self) -> None:
        """Raises CertificateError where they cannot be used."""
        self.client()

    def client(self) -> ssl.SSLContext:
        """What a client connects with.  A server must show a certificate of `ca` that names the
        address it was dialled at (RFC 5280, 4.2.1.6, iPAddress).

        Raises CertificateError where a file cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for path in (self.key, self.certificate, self.ca):
            try:
                path.read_bytes()
            except OSError as error:
                words = f"{path}: {error.strerror or error}: key.pem, certificate.pem and ca.pem"
                raise CertificateError(f"{words} are needed") from None
        try:
            context.load_verify_locations(self.ca)
        except (ssl.SSLError, ValueError):
            raise CertificateError(f"{self.ca}: no certificate in PEM form is in it") from None
        try:
            context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            words = f"{self.certificate}: expected a certificate, and in {self.key} its private key"
            reason = getattr(error, "reason", None) or error
            raise CertificateError(f"{words}, without a password ({reason})") from None
        return context

    def words(self, error: OSError) -> str:
        """What a server did, for people, where TLS with it failed: after the server's name."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"shows a certificate that {self.ca} does not vouch for: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            said = (error.reason or str(error)).replace("_", " ").lower()
            if "alert" in said:
                return f"does not take {self.certificate}: {said}"
            return f"does not speak TLS as needed: {said}"
        return error.strerror or str(error)
