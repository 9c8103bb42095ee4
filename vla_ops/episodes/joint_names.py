"""What the names of dimensions say: which arm they are of, and whether they contradict the names in the messages themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np

from vla_ops.errors import SchemaMismatchError
from vla_ops.recordings.base import Source
from vla_ops.spec import VectorPart

_SIDE = re.compile(r"(l|left\d*)|(r|right\d*)|(?:arm|robot)\d+", re.IGNORECASE)
# RealMan's two arms are r1..r7, gr, l1..l7, gl.
_SHORT = re.compile(r"(g?)([lr])(\d*)", re.IGNORECASE)
_SIDES = {"l": "left", "r": "right"}
_OTHER = {"l": "r", "r": "l"}


def side_of(name: str) -> str:
    """Which of several arms a dimension is of: `left`, `right`, or as it is written (`robot0`); empty where the name does not say."""
    said = next(filter(None, map(_SIDE.fullmatch, name.split("_"))), None)
    if said is None:
        return ""
    return "left" if said[1] else "right" if said[2] else said[0].casefold()


def sides_of(names: Sequence[str]) -> list[str]:
    """`side_of` each name. A short one counts where its counterpart is there too: r1 beside l1, but not the first of r1..r6."""
    known = {name.casefold() for name in names}
    return [side_of(name) or _short_side(name.casefold(), known) for name in names]


def _short_side(name: str, known: Set[str]) -> str:
    found = _SHORT.fullmatch(name)
    if found is None or f"{found[1]}{_OTHER[found[2]]}{found[3]}" not in known:
        return ""
    return _SIDES[found[2]]


def without_side(name: str) -> str:
    """The name without the left or right arm that it begins with: the messages of each arm have their own topic, and do not say it."""
    side, _, rest = name.partition("_")
    return rest if rest and side_of(side) in ("left", "right") else name


def check_joint_names(written: Sequence[str], part: VectorPart, source: Source) -> None:
    """Raise SchemaMismatchError where a name of the YAML is what the messages call another column than the one it takes.

    `written` are the messages' names of all columns of the stream, of which `source` takes as many as `part` has names. Names of a
    rotation that is `written_as` another form are those of no column.
    """
    if part.written_as is not None:
        return
    if part.joints is not None:
        _check_beside_joints(part, part.joints, source)
    elif written:
        _check_columns(written, part, source)


def _check_beside_joints(part: VectorPart, joints: Sequence[str], source: Source) -> None:
    """`names` beside `joints` may say what they like, but not what another one of `joints` is called: then one of the lists is wrong."""
    for name, joint in zip(part.names, joints, strict=True):
        other = _column_called(name, joints)
        if other is not None and joints[other].casefold() != joint.casefold():
            raise SchemaMismatchError(
                f"the YAML calls the messages' {joint!r} {name!r}, which is what they call another of `joints`",
                stream=source.stream,
                dimension=name,
                found=f"names: [{', '.join(part.names)}]",
                expected=f"the order of joints: [{', '.join(joints)}]",
                todo="Bring `names` and `joints` into the same order; the k-th name is that of the k-th joint.",
            )


def _check_columns(written: Sequence[str], part: VectorPart, source: Source) -> None:
    taken = _taken(source, len(written))
    for name, column in zip(part.names, taken, strict=True):
        other = _column_called(name, written)
        if other is not None and written[column].casefold() != written[other].casefold():
            raise _swapped(name, column, other, written=written, part=part, source=source)


def _taken(source: Source, width: int) -> list[int]:
    """The columns that a source selects."""
    return source.take(np.arange(width, dtype=np.float64)[None])[0].astype(int).tolist()


def _column_called(name: str, written: Sequence[str]) -> int | None:
    """The column whose messages' name is `name`, or `name` without the side that it begins with."""
    names = [text.casefold() for text in written]
    for wanted in (name.casefold(), without_side(name).casefold()):
        if wanted in names:
            return names.index(wanted)
    return None


def _swapped(name: str, column: int, other: int, *, written: Sequence[str], part: VectorPart, source: Source) -> SchemaMismatchError:
    by_column = [written[k] for k in _taken(source, len(written))]
    called = [_column_called(n, written) for n in part.names]
    by_name = [own if k is None else written[k] for own, k in zip(by_column, called, strict=True)]
    whole = replace(source, columns=None)
    ptk = " On the AIRBOT PTK `gripper` is the sixth arm joint and `gripper_finger` the gripper." if "gripper_finger" in written else ""
    return SchemaMismatchError(
        f"the YAML calls a column {name!r} that the messages call {written[column]!r}",
        stream=source.stream,
        dimension=name,
        found=f"column {column} is {written[column]!r} and column {other} is {written[other]!r} in the messages",
        expected=f"{name!r} where the messages have {written[other]!r}",
        todo=f"Write `source: {whole}` with `joints: [{', '.join(by_name)}]` to read them by name; or, if these columns are meant, "
        f"name them as the messages do.{ptk}",
    )
