"""What an upload will take, and how far it is: said to who waits for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from vla_ops.files import write_json

_SAY_EVERY_S = 5.0
# Less says nothing of a link.
_TELLING_BYTES = 8_000_000


class Progress:
    """An upload, as it is said to who waits: before it what it will take, and every few seconds how far it is and how long the rest takes.

    `work` is the folder in which rates are remembered, by `place`. `sent` may be told from several threads.
    """

    def __init__(self, say: Callable[[str], None], work: Path, place: str, *, usd_per_gb_month: float | None = None) -> None:
        self.say, self.sent_bytes = say, 0
        self._rates, self._place, self._usd_per_gb_month = Rates(work), place, usd_per_gb_month
        self._total_bytes, self._lock, self._said_s, self._began_s = 0, Lock(), time.monotonic(), time.monotonic()

    def begin(self, what: str, total_bytes: int) -> None:
        """So much is to go; `what` is the beginning of the sentence."""
        self._total_bytes, self._said_s, self._began_s = total_bytes, time.monotonic(), time.monotonic()
        self.say(what + self._rates.expected(self._place, total_bytes) + monthly_cost(total_bytes, self._usd_per_gb_month))

    def sent(self, count: int) -> None:
        """So many bytes more are there."""
        with self._lock:
            self.sent_bytes += count
            now_s = time.monotonic()
            if self.sent_bytes and now_s - self._said_s >= _SAY_EVERY_S:
                self._said_s = now_s
                rate = self.sent_bytes / (now_s - self._began_s)
                left_s = max(self._total_bytes - self.sent_bytes, 0) / rate
                self.say(f"{self.sent_bytes / 1e6:.0f} of {self._total_bytes / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s, {left_s:.0f} s left")

    def end(self) -> None:
        """All of it is there."""
        self._rates.learn(self._place, self.sent_bytes, time.monotonic() - self._began_s)


class Rates:
    """How fast each place was the last time that something of size went there, remembered below `work`."""

    def __init__(self, work: Path) -> None:
        self._file = work / "rates.json"

    def expected(self, place: str, total_bytes: int) -> str:
        """How long so much will take, as the end of a sentence; nothing where that is not known, or no time at all."""
        rate = self._known().get(place)
        if rate is None or total_bytes < _TELLING_BYTES:
            return ""
        return f", about {_duration(total_bytes / rate)} at the {rate / 1e6:.1f} MB/s of the last time"

    def learn(self, place: str, sent_bytes: int, seconds: float) -> None:
        """So much went there in that time."""
        if sent_bytes >= _TELLING_BYTES and seconds > 0:
            write_json(self._file, self._known() | {place: sent_bytes / seconds})

    def _known(self) -> dict[str, float]:
        try:
            return json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}  # Then nothing is expected.


def monthly_cost(total_bytes: int, usd_per_gb_month: float | None) -> str:
    """What it costs to keep so much there, as the end of a sentence; nothing where nobody has said the price."""
    if usd_per_gb_month is None:
        return ""
    return f", {total_bytes / 1e9 * usd_per_gb_month:.2f} USD a month to keep at {usd_per_gb_month:g} USD per GB"


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
