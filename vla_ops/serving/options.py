"""How a server listens, whom it lets in, and how much it takes."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from vla_ops.errors import PolicyError

_MIB = 1 << 20


@dataclass(frozen=True)
class ServerOptions:
    """Addresses, limits and time-outs; `token` and TLS files are off unless they are given."""

    host: str = "127.0.0.1"
    # 0 takes any that is free.
    port: int = 8000
    # What a client must send as `Authorization: Api-Key TOKEN` (or Bearer), as openpi's client does.
    token: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_message_bytes: int = 16 * _MIB
    max_clients: int = 256
    # Requests that are computed at once; those that wait meanwhile.
    max_batch: int = 1
    max_waiting: int = 64
    wait_timeout_s: float = 10.0
    # Of the handshake; of a client that does not take its reply.
    open_timeout_s: float = 10.0
    send_timeout_s: float = 10.0
    # A client that does not answer a ping in this time is gone, though its machine never said so.
    ping_s: float = 20.0
    # How long requests that were begun may take when the server stops.
    stop_timeout_s: float = 15.0

    def __repr__(self) -> str:
        # The token is nowhere printed.
        return f"ServerOptions({self.host}:{self.port}, token {'set' if self.token else 'none'}, tls {bool(self.tls_cert)})"

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def tls(self) -> ssl.SSLContext | None:
        """The context of the certificate. Raise PolicyError for files that are none."""
        if self.tls_cert is None:
            if self.tls_key is not None:
                raise PolicyError("a TLS key needs its certificate", found=self.tls_key, todo="Give both.")
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as error:
            raise PolicyError("not a TLS certificate with its key", file=self.tls_cert, found=str(error)) from error
        return context
