"""A connection to a policy server."""

import ssl
import time
from contextlib import ExitStack
from typing import Any, Dict, Mapping, Optional

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from vla_ops_client.wire import pack, unpack

_PAUSE_S = 0.2


class PolicyError(RuntimeError):
    """What the server says of a request: a camera that is missing, a state that is not finite. The connection goes on where it can."""


class ConnectionLost(ConnectionError):  # noqa: N818 - as Python's own are called
    """There is no server, it did not answer in time, or it does not let this client in."""


class PolicyClient:
    """One connection; a context. Calls come from one thread at a time."""

    def __init__(
        self,
        uri: str = "ws://127.0.0.1:8000",
        *,
        token: Optional[str] = None,
        timeout_s: float = 30.0,
        reconnect_s: float = 0.0,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None:
        """Connect to `ws://host:port`, or `wss://` (with `tls` where the certificate is the robot's own to trust).

        `timeout_s` is how long a reply may take; for `reconnect_s` it is tried again to connect, now and after the connection broke.
        Raise ConnectionLost.
        """
        self.uri, self.timeout_s, self.reconnect_s = uri, timeout_s, reconnect_s
        # What the server says of its policy.
        self.metadata: Dict[str, Any] = {}
        self._headers = {"Authorization": "Api-Key " + token} if token else None
        self._tls = tls
        self._connection: Optional[ClientConnection] = None
        self._held = ExitStack()
        self._connect()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection = None
        self._held.close()

    def infer(self, observation: Mapping[str, Any]) -> Dict[str, Any]:
        """Ask for actions: `actions` [horizon, dim], `policy_timing`, `server_timing`. Raise PolicyError or ConnectionLost.

        Where the connection breaks, and `reconnect_s` is set, it is made again and the request sent once more.
        """
        message = pack(dict(observation))
        try:
            return self._ask(message)
        except ConnectionLost:
            if not self.reconnect_s:
                raise
        self._connect()
        return self._ask(message)

    def _ask(self, message: bytes) -> Dict[str, Any]:
        if self._connection is None:
            self._connect()
        assert self._connection is not None  # noqa: S101 - for the reader of types
        try:
            self._connection.send(message)
            reply = self._connection.recv(timeout=self.timeout_s)
        except (ConnectionClosed, OSError) as error:
            # A reply that comes later would be taken for the next one's.
            self.close()
            raise ConnectionLost(f"{self.uri}: {error or 'no reply in time'}") from error
        if isinstance(reply, str):
            raise PolicyError(reply)
        return unpack(reply)

    def _connect(self) -> None:
        self.close()
        ends = time.monotonic() + self.reconnect_s
        while True:
            try:
                self._open()
                return
            except (OSError, ConnectionClosed, InvalidHandshake) as error:
                if time.monotonic() >= ends or _is_refused(error):
                    raise ConnectionLost(f"{self.uri}: {error}") from error
            time.sleep(_PAUSE_S)

    def _open(self) -> None:
        opening = connect(self.uri, compression=None, max_size=None, additional_headers=self._headers, ssl=self._tls)
        with ExitStack() as held:
            connection = held.enter_context(opening)
            self.metadata = unpack(connection.recv(timeout=self.timeout_s))
            self._connection, self._held = connection, held.pop_all()


def _is_refused(error: BaseException) -> bool:
    """Whether the server lets this client not in: to try again changes nothing."""
    response = getattr(error, "response", None)
    return response is not None and response.status_code in (401, 403)
