"""A YAML file of a robot's folder as values and nodes, and every mistake in it with its file and line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vla_ops.errors import SpecError

# Keys and places in lists on the way to a value.
type Loc = tuple[str | int, ...]
# What pydantic says of a form of a key that another form was meant by.
_OTHER_FORM = {"model_type", "list_type", "float_type", "literal_error", "model_attributes_type"}


@dataclass(frozen=True)
class Mistake:
    """What is wrong at a line."""

    line: int
    said: str


@dataclass(frozen=True)
class YamlFile:
    """A parsed file: `tree` knows the lines, `document` the values; both are None for an empty file. `what` names it in messages."""

    path: Path
    what: str
    tree: yaml.Node | None
    document: Any

    @classmethod
    def read(cls, path: Path, what: str) -> YamlFile:
        """Parse the file. Raise SpecError with file:line if it is not YAML."""
        # The C parser is six times as fast, which twenty robots feel.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(path.read_text(encoding="utf-8"))
        try:
            tree = loader.get_single_node()
            return cls(path, what, tree, None if tree is None else loader.construct_document(tree))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            said = f"not YAML: {error.problem} (text with [ ] or : inside {{ }} needs quotes; indent with spaces)"
            raise cls(path, what, None, None).mistaken([Mistake(line, said)]) from error
        finally:
            loader.dispose()

    def mistaken(self, mistakes: Sequence[Mistake]) -> SpecError:
        """One error that names every mistake with its line."""
        lines = [f"{self.path}:{mistake.line}: {mistake.said}" for mistake in sorted(set(mistakes), key=lambda m: m.line)]
        return SpecError("\n".join([f"{self.what} has mistakes", *lines]))

    def doubled(self) -> Iterator[Mistake]:
        """Keys that are there twice. YAML takes the last of them and says nothing: a camera copied and not renamed is lost."""
        return _doubled(self.tree)

    def refused(self, error: ValidationError, *, below: Loc = ()) -> SpecError:
        """What pydantic says of the part of the file at `below`, with lines."""
        found = [e for e in error.errors() if not self._of_another_branch(e, error, below)]
        return self.mistaken([Mistake(self.line((*below, *_loc(e))), f"{self._where(e, below)}{_said(e)}") for e in found])

    def line(self, loc: Loc) -> int:
        """The line of the deepest node on the way to `loc` (pydantic puts union branch names in it; they are skipped)."""
        line, node = 1, self.tree
        for key in loc:
            if isinstance(node, yaml.MappingNode):
                hit = next(((k, v) for k, v in node.value if k.value == str(key)), None)
                if hit is not None:
                    line, node = hit[0].start_mark.line + 1, hit[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                item: yaml.Node = node.value[key]
                line, node = item.start_mark.line + 1, item
        return line

    def _of_another_branch(self, error: Any, of: ValidationError, below: Loc) -> bool:
        """True for what pydantic says of the forms of a key that were not meant: `action` is a list, or a mapping like {from: ...}."""
        is_branch = self._branches(error["loc"], below)
        if True not in is_branch or error["type"] not in _OTHER_FORM:
            return False
        stem = error["loc"][: is_branch.index(True)]
        return sum(e["loc"][: len(stem)] == stem for e in of.errors()) > 1

    def _where(self, error: Any, below: Loc) -> str:
        """The keys on the way to a mistake, without the names that pydantic gives the branches of a union."""
        loc = _loc(error)
        keys = [str(key) for key, is_branch in zip(loc, self._branches(loc, below), strict=True) if not is_branch]
        return f"{'.'.join(keys)}: " if keys else ""

    def _branches(self, loc: Loc, below: Loc) -> list[bool]:
        """For each key whether it is the name of a branch: one that is not in the file, with a capital or a bracket."""
        value = self.document
        for key in below:
            value = _part(value, key)
        found = []
        for key in loc:
            part = _part(value, key)
            found.append(part is _ABSENT and (str(key)[:1].isupper() or "[" in str(key)))
            value = value if part is _ABSENT else part
        return found


_ABSENT = object()


def _part(value: Any, key: str | int) -> Any:
    """What is at `key` of a mapping or list, or _ABSENT."""
    if isinstance(value, dict):
        return value.get(key, _ABSENT)
    return value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else _ABSENT


def _doubled(node: yaml.Node | None) -> Iterator[Mistake]:
    for value in node.value if isinstance(node, yaml.SequenceNode) else ():
        yield from _doubled(value)
    first: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        line = key.start_mark.line + 1
        if key.value in first:
            yield Mistake(line, f"{key.value}: is already at line {first[key.value]}; only one of them would count")
        first.setdefault(key.value, line)
        yield from _doubled(value)


def _loc(error: Any) -> Loc:
    key = error.get("ctx", {}).get("key") if error["type"] == "unknown_key" else None
    return error["loc"] if key is None else (*error["loc"], key)


def _said(error: Any) -> str:
    said = str(error["msg"]).removeprefix("Value error, ")
    is_plain = isinstance(error["input"], str | int | float) and error["type"] != "value_error"
    return f"{said}; found {error['input']!r}" if is_plain else said
