"""What a repository is told when something is published to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubOptions:
    """How a repository is made. One that is there must be so already: what is public does not become private by publishing."""

    # Whether everybody may read it.
    public: bool = False
    # Of a policy, for its card: an SPDX id in lower case, as the Hub lists them. A dataset says its own.
    licence: str | None = None
