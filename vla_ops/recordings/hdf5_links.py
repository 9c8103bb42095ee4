"""Walk an HDF5 file without leaving it: every link and storage on the way is checked before it is followed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vla_ops.errors import RecordingFormatError, UnsafePathError

if TYPE_CHECKING:
    import h5py

# Soft links that point at each other.
_LONGEST_CHAIN = 32
_DEEPEST = 32
_TODO = "Repack it with the data inside: h5repack, or h5py's `copy(..., expand_external=True)`."


def group_at(file: h5py.File, path: str) -> h5py.Group | None:
    """The group at `path`, or None. Raise UnsafePathError if the way to it leaves the file."""
    import h5py

    node = _node_at(file, path)
    return node if isinstance(node, h5py.Group) else None


def dataset_at(file: h5py.File, path: str) -> h5py.Dataset | None:
    """The dataset at `path`, or None. Raise UnsafePathError if the way to it, or its storage, leaves the file."""
    import h5py

    node = _node_at(file, path)
    if not isinstance(node, h5py.Dataset):
        return None
    _check_storage(node, path)
    return node


def links_of(root: h5py.Group) -> dict[str, h5py.Dataset]:
    """All datasets below `root` by relative path. Raise UnsafePathError naming the first link that leaves the file."""
    return dict(_walk(root, "", frozenset()))


def missing_filter(dataset: h5py.Dataset) -> str:
    """Name the filter without which the dataset cannot be read, or the empty string."""
    import h5py

    plist = dataset.id.get_create_plist()
    for k in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(k)
        if not h5py.h5z.filter_avail(code) and not _with_plugins(code):
            said = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
            return f"HDF5 filter {code}" + (f" ({said})" if said else "")
    return ""


def _with_plugins(code: int) -> bool:
    """Register the filters of hdf5plugin, if it is installed, and say whether `code` is one of them."""
    import importlib.util

    import h5py

    if importlib.util.find_spec("hdf5plugin") is None:
        return False
    importlib.import_module("hdf5plugin")
    return bool(h5py.h5z.filter_avail(code))


def _walk(group: h5py.Group, prefix: str, above: frozenset[str]) -> Iterator[tuple[str, h5py.Dataset]]:
    import h5py
    from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

    # A hard or soft link to a group above would go round for ever.
    key = str(h5o.get_info(group.id).addr)
    if key in above or len(above) > _DEEPEST:
        return
    for name in map(str, group):
        path = f"{group.name}/{name}".replace("//", "/")
        node = _node_at(group.file, path)
        if isinstance(node, h5py.Dataset):
            _check_storage(node, path)
            yield prefix + name, node
        elif isinstance(node, h5py.Group):
            yield from _walk(node, f"{prefix}{name}/", above | {key})


def _node_at(file: h5py.File, path: str, chain: int = 0) -> h5py.Group | h5py.Dataset | None:
    import h5py

    node: object = file["/"]
    for name in path.strip("/").split("/"):
        if not isinstance(node, h5py.Group):
            return None
        if name in ("", "."):
            continue
        node = _follow(node, name, chain)
    return node if isinstance(node, h5py.Group | h5py.Dataset) else None


def _follow(group: h5py.Group, name: str, chain: int) -> object:
    import h5py

    where = f"{group.name}/{name}".replace("//", "/")
    try:
        link = group.get(name, getlink=True)
    except TypeError as error:
        raise UnsafePathError("a link of a kind that HDF5 itself does not define", stream=where, todo=_TODO) from error
    if link is None:
        return None
    if isinstance(link, h5py.ExternalLink):
        raise UnsafePathError("an external link leaves the recording", stream=where, found=f"{link.filename}:{link.path}", todo=_TODO)
    if isinstance(link, h5py.SoftLink):
        if chain >= _LONGEST_CHAIN:
            raise UnsafePathError("soft links that lead to each other", stream=where, found=link.path)
        target = link.path if link.path.startswith("/") else f"{group.name}/{link.path}"
        try:
            return _node_at(group.file, target, chain + 1)
        except UnsafePathError as error:
            error.where["stream"] = f"{where} -> {error.where.get('stream', target)}"
            raise
    try:
        return group[name]
    except (OSError, KeyError, RuntimeError) as error:
        raise RecordingFormatError(f"the object cannot be opened: {error}", stream=where, todo="The file is damaged.") from error


def _check_storage(dataset: h5py.Dataset, path: str) -> None:
    external = dataset.external
    if external:
        raise UnsafePathError("the values lie in another file", stream=path, found=", ".join(str(e[0]) for e in external), todo=_TODO)
    if not dataset.is_virtual:
        return
    for source in dataset.virtual_sources():
        if source.file_name != ".":
            raise UnsafePathError(
                "a virtual dataset takes its values from another file",
                stream=path,
                found=f"{source.file_name}:{source.dset_name}",
                todo=_TODO,
            )
        # Of a source in this file the way must stay in it, too.
        dataset_at(dataset.file, source.dset_name)
