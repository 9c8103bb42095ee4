"""Publications on the Hugging Face Hub: a repository each, a tag for every version, and `main` for the newest."""

from __future__ import annotations

from vla_ops.publishing.hub.address import HubAddress, owner_of
from vla_ops.publishing.hub.options import HubOptions

__all__ = ["HubAddress", "HubOptions", "owner_of"]
