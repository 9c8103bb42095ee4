"""The task text in a file beside the recordings, as RealMan's collectors leave it: numbered lines, of which the first one counts.

The file is looked for where the recording is, not where its copy is: of a remote store only the recording itself is fetched.
"""

from __future__ import annotations

import hashlib
import posixpath
import re

from vla_ops.errors import RecordingError

# `1. `, `2) `, `3: `, `4、`: the number of a line, but not the `2.5` of an amount or the `2` of a count.
_NUMBER = re.compile(r"^\d+\s*[.):\u3001\uff09\uff1a\uff0e]\s*(?!\d)")
# Characters without width that editors and chat programs leave in a copied text.
_NO_WIDTH = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF])


def task_in_file(recording_uri: str, name: str) -> str:
    """The first text in the file `name` of the recording's folder. Raise RecordingError naming it if it is missing or says nothing."""
    place = _beside(recording_uri, name)
    try:
        content = _read(place)
    except OSError as error:
        todo = f"Put the task in it, one sentence, or write `task: {{from: folder}}` or `task: {{text: ...}}` instead of `file: {name}`."
        raise RecordingError(f"no task text: {error.strerror or error}", expected=place, todo=todo) from error
    try:
        text = first_text(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecordingError("the task file is not UTF-8", found=f"{place}: {error}", todo="Save it again as UTF-8.") from error
    if not text:
        raise RecordingError("the task file says nothing", found=f"{place}, {len(content)} bytes", expected="a line of text")
    return text


def first_text(lines: str) -> str:
    """The first line that says something, without its number; empty if none does."""
    texts = (_NUMBER.sub("", line.translate(_NO_WIDTH).strip()).strip() for line in lines.splitlines())
    return next(filter(None, texts), "")


def version_with_task(content: str, recording_uri: str, name: str) -> str:
    """The version of a recording whose bytes have version `content` and whose task is in a file: another text is another recording.

    Only the text that counts is in it: no line after it converts a folder again.
    """
    place = _beside(recording_uri, name)
    try:
        task = _what_counts(_read(place))
    except FileNotFoundError:
        task = b""  # Conversion says so, for each recording.
    except OSError as error:
        raise RecordingError(f"cannot read the task file: {error}", file=place) from error
    return hashlib.sha256(f"{content}:".encode() + task).hexdigest()[:16]


def _what_counts(content: bytes) -> bytes:
    try:
        return first_text(content.decode("utf-8")).encode()
    except UnicodeDecodeError:
        return content  # Conversion says so, for each recording.


def _beside(recording_uri: str, name: str) -> str:
    return posixpath.join(posixpath.dirname(recording_uri.rstrip("/")), name)


def _read(place: str) -> bytes:
    import fsspec

    fs, path = fsspec.core.url_to_fs(place)
    return fs.cat_file(path)
