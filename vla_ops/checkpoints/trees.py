"""Flat `{path: array}` <-> the nested trees on disk, and the train state.

On disk a parameter is `params/<path>/value`, as Flax writes it; the reader takes both that and `params/<path>`. Optimiser state is
written as openpi's is: named tuples as dictionaries of their fields, empty ones as None, tuples as lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

VALUE = "value"


@dataclass(frozen=True)
class TrainState:
    """Everything a training step changes. Leaves are arrays, or shapes with dtypes (and shardings) to restore into."""

    # int32 []. openpi's is one more than the step that names the folder.
    step: Any
    # Live weights by path, frozen ones included.
    params: Mapping[str, Any]
    # As optax gives it for a flat dictionary of the trainable parameters.
    opt_state: Any
    # None where there is no EMA.
    ema_params: Mapping[str, Any] | None = None

    @property
    def served(self) -> Mapping[str, Any]:
        """The weights in the params item: EMA where there is one."""
        return self.params if self.ema_params is None else self.ema_params


def nest(flat: Mapping[str, Any], *, value: bool = True) -> dict[str, Any]:
    """Nest `{a/b: x}` to `{a: {b: {value: x}}}`, or without the last level."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = [*path.split("/"), VALUE] if value else path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def without_value(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Strip the last `/value` where all paths have it, as openpi's reader does; leave them alone where one has not."""
    end = f"/{VALUE}"
    if flat and all(path.endswith(end) for path in flat):
        return {path.removesuffix(end): leaf for path, leaf in flat.items()}
    return dict(flat)


def params_tree(params: Mapping[str, Any]) -> dict[str, Any]:
    """The params item on disk."""
    return {"params": nest(params)}


class TrainStateItem(NamedTuple):
    """The train_state item on disk, in the order of openpi's fields."""

    step: Any
    params: dict[str, Any]
    model_def: None
    opt_state: Any
    ema_params: None


def train_state_item(state: TrainState) -> TrainStateItem:
    """The train_state item of a state: without what is in params already."""
    live = {} if state.ema_params is None else nest(state.params)
    return TrainStateItem(_array(state.step), live, None, _written(state.opt_state), None)


def leaves_of(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf with the '/'-joined keys and indices to it; None and empty nodes have none."""
    if isinstance(tree, Mapping):
        inner = [(str(key), child) for key, child in tree.items()]
    elif _is_named_tuple(tree):
        inner = [(name, getattr(tree, name)) for name in tree._fields]
    elif isinstance(tree, list | tuple):
        inner = [(str(k), child) for k, child in enumerate(tree)]
    elif tree is not None:
        yield prefix, tree
        return
    else:
        return
    for key, child in inner:
        yield from leaves_of(child, f"{prefix}/{key}" if prefix else key)


def filled(like: TrainState, read: Mapping[str, Any], served: Mapping[str, Any]) -> TrainState:
    """The train state of `like`'s structure with the leaves read from the two items, by their paths there."""
    live = served if like.ema_params is None else {path: read[f"params/{path}/{VALUE}"] for path in like.params}
    return TrainState(
        step=read["step"],
        params={path: live[path] for path in like.params},
        opt_state=_filled(like.opt_state, lambda path: read[path], "opt_state"),
        ema_params=None if like.ema_params is None else {path: served[path] for path in like.ema_params},
    )


def _written(node: Any) -> Any:
    if _is_named_tuple(node):
        return {name: _written(getattr(node, name)) for name in node._fields} or None
    if isinstance(node, Mapping):
        return nest(dict(node))
    if isinstance(node, list | tuple):
        return [_written(child) for child in node]
    return _array(node)


def _array(leaf: Any) -> Any:
    """Numbers as arrays: Orbax writes them as numbers, and openpi would read them as such."""
    if isinstance(leaf, int):
        return np.asarray(leaf, np.int32)
    return np.asarray(leaf) if isinstance(leaf, np.generic) else leaf


def _filled(node: Any, leaf: Callable[[str], Any], path: str) -> Any:
    if _is_named_tuple(node):
        return type(node)(*(_filled(getattr(node, name), leaf, f"{path}/{name}") for name in node._fields))
    if isinstance(node, Mapping):
        return {key: leaf(f"{path}/{key}/{VALUE}") for key in node}
    if isinstance(node, list | tuple):
        return type(node)(_filled(child, leaf, f"{path}/{k}") for k, child in enumerate(node))
    return None if node is None else leaf(path)


def _is_named_tuple(node: Any) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields")
