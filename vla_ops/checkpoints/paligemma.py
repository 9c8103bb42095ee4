"""PaliGemma's .npz (big_vision's `params/img/...` and `params/llm/...`) as the source of a pi0 model's first expert and image tower."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.checkpoints.loading import LORA, LoadRules
from vla_ops.checkpoints.reading import ArraySpec, Wanted
from vla_ops.errors import CheckpointError

_PREFIX = "params/"
# What PaliGemma has not: the action expert, the projections around it, and LoRA. The rest of the model must be in the file.
PALIGEMMA_RULES = LoadRules(missing=rf"(?!PaliGemma/).*|PaliGemma/llm/(.*/)?[^/]+_1(/.*)?|{LORA}")
_TODO = "Fetch it again; expected is big_vision's pt_224.npz, with keys such as params/llm/embedder/input_embedding."


@dataclass(frozen=True)
class PaliGemmaSource:
    """Parameters of a PaliGemma .npz under their names in pi0; for `load_into` with PALIGEMMA_RULES."""

    file: Path
    specs: Mapping[str, ArraySpec] = field(init=False)

    def __post_init__(self) -> None:
        with self._opened() as archive:
            names = [name for name in archive.files if name.startswith((f"{_PREFIX}img/", f"{_PREFIX}llm/"))]
            object.__setattr__(self, "specs", {_path(name): _spec(archive, name) for name in names})
        if not names:
            found = ", ".join(archive.files[:4]) or "nothing"
            raise CheckpointError("the file is not PaliGemma's", file=self.file, found=found, todo=_TODO)

    @property
    def name(self) -> str:
        """The file."""
        return str(self.file)

    def read(self, wanted: Mapping[str, Wanted]) -> dict[str, Any]:
        """Read these parameters one after the other, each with its own dtype and sharding."""
        with self._opened() as archive:
            return {path: self._one(archive, path, how) for path, how in wanted.items()}

    def _one(self, archive: Any, path: str, how: Wanted) -> Any:
        try:
            array = _as_float(archive[_PREFIX + path.removeprefix("PaliGemma/")])
        # A changed byte fails the archive's own checksum.
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            why = str(error)
            raise CheckpointError("the file is damaged", file=self.file, array=path, found=why, todo=_TODO) from error
        array = array if how.dtype is None else array.astype(how.dtype)
        if how.sharding is None:
            return array
        import jax

        return jax.make_array_from_callback(array.shape, how.sharding, lambda index: array[index])

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        # numpy leaves the file open where it cannot read it.
        with open(self.file, "rb") as handle:
            try:
                archive = np.load(handle, allow_pickle=False)
            except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
                raise CheckpointError("the file cannot be read", file=self.file, found=str(error), todo=_TODO) from error
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise CheckpointError("the file is not PaliGemma's", file=self.file, found="a single array", todo=_TODO)
            with archive:
                yield archive


def _path(name: str) -> str:
    return f"PaliGemma/{name.removeprefix(_PREFIX)}"


def _spec(archive: Any, name: str) -> ArraySpec:
    """Shape and dtype from the member's header alone."""
    with archive.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return ArraySpec(shape, "bfloat16" if dtype.str == "|V2" else dtype.name)


def _as_float(array: np.ndarray) -> np.ndarray:
    """Undo what numpy's files, which know no bfloat16, say of it: two bytes of anything."""
    if array.dtype.str != "|V2":
        return array
    import ml_dtypes

    return array.view(ml_dtypes.bfloat16)
