"""Whether a recording is one of those its folder says: its own metadata against `recordings.must_say`."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from vla_ops.errors import RecordingError, SpecError
from vla_ops.recordings.base import Recording, Span
from vla_ops.spec.recordings import PLACEHOLDER

# How many keys of a recording are named where the wanted one is not among them.
_MOST_KEYS = 12


@dataclass(frozen=True)
class _Odd:
    """One key of which the recording says something else. `place` is the folder that the wanted value is the name of."""

    key: str
    found: str
    wanted: str
    place: str | None


def said_by(recording: Recording, spans: Sequence[Span]) -> dict[str, str]:
    """All that a recording says of itself, by key."""
    return {**_texts_of(spans), **recording.metadata()}


def check_identity(said: Mapping[str, str], recording_id: str, must_say: Mapping[str, str]) -> None:
    """Raise RecordingError naming every key of `must_say` that is not in what the recording has `said`, or has another value there.

    `{0}`, `{1}`, ... in a value stand for the folders of `recording_id`; SpecError where it has fewer. Values are compared letter by
    letter: a task that is called in two ways would be two tasks.
    """
    folders = PurePosixPath(recording_id).parent.parts
    odd: list[_Odd] = []
    for short, template in must_say.items():
        wanted = _filled(short, template, folders)
        key = _key_of(short, said)
        if said[key] != wanted:
            odd.append(_Odd(key, said[key], wanted, wanted if PLACEHOLDER.fullmatch(template) else None))
    if odd:
        raise _other(odd)


def _texts_of(spans: Sequence[Span]) -> dict[str, str]:
    """The task texts of the episodes as the key `task`: formats that keep it in a dataset have it nowhere else."""
    texts = dict.fromkeys(span.task.strip() for span in spans if span.task and span.task.strip())
    return {"task": " | ".join(texts)} if texts else {}


def _filled(key: str, template: str, folders: Sequence[str]) -> str:
    deepest = max((int(number) for number in PLACEHOLDER.findall(template)), default=-1)
    if deepest >= len(folders):
        raise SpecError(
            f"recordings.must_say: {key} speaks of a folder that the recording does not lie in",
            found=f"{template!r} with {len(folders)} folder(s): {', '.join(folders) or 'none'}",
            expected=f"at least {deepest + 1} folders, as {{{deepest}}} is folder number {deepest + 1}",
            todo="Count folders from {0}, or move the recording to where the others are.",
        )
    return PLACEHOLDER.sub(lambda number: folders[int(number[1])], template)


def _key_of(short: str, said: Mapping[str, str]) -> str:
    """The key that is meant: itself, or the only one that ends with it. Raise RecordingError if it is none, or several that differ."""
    if short in said:
        return short
    ending = [key for key in said if key.endswith(f".{short}")]
    if not ending:
        nearest = sorted(said, key=lambda key: -_likeness(short, key))
        more = f", ... ({len(nearest)} in all)" if len(nearest) > _MOST_KEYS else ""
        raise RecordingError(
            f"the recording does not say its {short}, which recordings.must_say asks for",
            found=", ".join(nearest[:_MOST_KEYS]) + more or "nothing of itself",
            todo=f"Correct the key, or remove the line `{short}` from `must_say`; `vla-ops inspect FILE` shows what it says.",
        )
    if len({said[key] for key in ending}) > 1:
        raise RecordingError(
            f"recordings.must_say: {short} may mean several keys of the recording, which say different things",
            found=", ".join(f"{key} {said[key]!r}" for key in ending),
            todo=f"Write the whole key: `{ending[0]}`.",
        )
    return ending[0]


def _likeness(short: str, key: str) -> float:
    return max(difflib.SequenceMatcher(None, short, other).ratio() for other in (key, key.rpartition(".")[2]))


def _other(odd: Sequence[_Odd]) -> RecordingError:
    return RecordingError(
        "the recording says of itself that it is another one",
        found=", ".join(f"{o.key} {o.found!r}" for o in odd),
        expected=", ".join(f"{o.wanted!r}" + (" as its folder is called" if o.place else "") for o in odd),
        todo=" ".join(dict.fromkeys(map(_todo, odd))),
    )


def _todo(odd: _Odd) -> str:
    if not odd.found.strip():
        return f"Its collector left {odd.key} empty: if it always does, remove that line from `recordings.must_say`."
    close = f"The two differ only in case, spaces, dashes or underscores ({odd.found!r}, {odd.wanted!r}). " if _is_near(odd) else ""
    if odd.place is None:
        return f"{close}Move the recording away from where `recordings.pattern` finds it, or correct `recordings.must_say`."
    if close:
        return f"{close}Rename the folder {odd.place!r} to {odd.found!r}."
    return f"Move the recording to a folder {odd.found!r}, or rename the folder {odd.place!r} if all in it are of {odd.found!r}."


def _is_near(odd: _Odd) -> bool:
    return _bare(odd.found) == _bare(odd.wanted)


def _bare(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())
