"""CRC32C, which says whether a file is what was written: of hundreds of gigabytes in the time that it takes to read them."""

from __future__ import annotations

import os
from pathlib import Path

_BLOCK = 1 << 22


def checksum(file: Path, *, flush: bool = False) -> str:
    """CRC32C of a file, in hexadecimal. `flush` puts it on disk too, so that it outlives a power loss."""
    import google_crc32c

    sum_ = google_crc32c.Checksum()
    with open(file, "rb") as handle:
        while block := handle.read(_BLOCK):
            sum_.update(block)
        if flush:
            os.fsync(handle.fileno())
    return sum_.hexdigest().decode()
