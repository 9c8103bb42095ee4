"""Change lines of a shipped robot's YAML, as a user does whose recordings differ in what the header says may differ."""

from __future__ import annotations

import re
from pathlib import Path

from vla_ops_tests.robots.shipped import Shipped


def header(path: Path) -> str:
    """The comment a YAML begins with, as one line of single spaces."""
    lines = path.read_text(encoding="utf-8").splitlines()
    count = next(k for k, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(" ".join(line.lstrip("# ") for line in lines[:count]).split())


def write_instead(robot: Shipped, old: str, new: str, *, told: str | None = None, count: int = 1) -> None:
    """Replace `old`, which occurs `count` times, by `new`; `told` is what the header must say of it."""
    path = robot.folder / "defs.yaml"
    assert told is None or told in header(path), f"the header does not say {told!r}"
    text = path.read_text(encoding="utf-8")
    split = re.search(r"^type:", text, re.MULTILINE)
    assert split is not None
    top, body = text[: split.start()], text[split.start() :]
    assert body.count(old) == count, f"{old!r} occurs {body.count(old)} times"
    path.write_text(top + body.replace(old, new), encoding="utf-8")
