"""TLS of the health service: what it serves with, how it asks members. New files are read while it runs."""

import os
import ssl

from fastcache.errors import ConfigurationError
from fastcache.health.settings import Settings


class Certificates:
    """The contexts, made once; a certificate that was replaced is for the connections after that."""

    def __init__(self, settings: Settings) -> None:
        self.files = (settings.tls_cert_file, settings.tls_key_file)
        self.seen = self.ages()
        self.serving: ssl.SSLContext | None = None
        self.asking: ssl.SSLContext | None = None
        try:
            if settings.tls_cert_file:
                self.serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self.serving.load_cert_chain(*self.files)
            if settings.tls_cluster:
                self.asking = ssl.create_default_context(cafile=settings.tls_ca_cert_file or None)
                if settings.tls_cert_file:
                    self.asking.load_cert_chain(*self.files)
        except (OSError, ssl.SSLError) as error:
            named = ", ".join(filter(None, (*self.files, settings.tls_ca_cert_file)))
            raise ConfigurationError(f"TLS cannot be begun with {named}: {error}") from None

    def ages(self) -> tuple[float, ...]:
        """When the files were written last."""
        return tuple(os.stat(file).st_mtime for file in self.files if file and os.path.exists(file))

    def refresh(self) -> str | None:
        """Read files that were replaced: what came of it, or nothing when none was."""
        if (now := self.ages()) == self.seen:
            return None
        self.seen = now
        try:
            for context in (self.serving, self.asking):
                if context:
                    context.load_cert_chain(*self.files)
        except (OSError, ssl.SSLError) as error:
            return f"the new certificate is of no use, the old one stays: {error}"
        return "the new certificate is in use"
