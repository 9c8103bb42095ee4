"""What must not leave this machine: values of the environment that are secret, and what URLs carry of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from vla_ops.errors import PublishError

_SIGNED = re.compile(rb"(?i)X-Amz-Signature=|X-Goog-Signature=|[?&]Signature=|://[^/@:\s'\"]+:[^/@\s'\"]+@")
_NAMES = re.compile(r"(?i)(SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY)")
# Shorter values, such as `1` or `true`, are found anywhere and are no secrets.
_SHORTEST = 8
# Text is small; weights and videos are written by libraries that know nothing of the environment.
_LARGEST = 4 << 20


def secrets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables whose name says that they are secret, with their values."""
    return {name: value for name, value in environment.items() if _NAMES.search(name) and len(value) >= _SHORTEST and "/" not in value[:1]}


def require_no_secrets(files: Mapping[str, Path]) -> None:
    """Raise PublishError, naming the file and the variable but not its value, if a small file holds a secret of the environment, or a
    URL with a password or a signature.
    """
    for name, path in files.items():
        if path.stat().st_size <= _LARGEST and (found := next(_found(path.read_bytes(), secrets_of(os.environ).items()), None)):
            todo = "Take it out where it comes from (a URI in defs.yaml, most likely), and make this anew. Consider the secret known."
            raise PublishError("a file that is to be published holds a secret", file=path, published_as=name, found=found, todo=todo)


def _found(content: bytes, secrets: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield from (f"the value of {name}" for name, value in secrets if value.encode() in content)
    if _SIGNED.search(content):
        yield "a URL with a password or a signature"
