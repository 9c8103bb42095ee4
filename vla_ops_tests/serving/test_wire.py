"""Messages byte for byte as openpi's, and bytes that are none."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vla_ops.errors import RequestError
from vla_ops.serving.wire import UnreadableError, pack, unpack

EXAMPLES: dict[str, Any] = {
    "f32_vec": np.array([0, 1, 2], np.float32),
    "u8_img_2x2x3": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
    "bool_arr": np.array([True, False]),
    "np_int64_scalar": np.int64(7),
    "np_float32_scalar": np.float32(0.5),
    "np_bool_scalar": np.bool_(True),
    "zero_d": np.array(3.5),
    "dict": {"a": 1, "b": "x", "c": None, "d": 1.5, "e": True},
}


def test_values_are_packed_as_openpi_packs_them(golden_dir: Path) -> None:
    recorded = json.loads((golden_dir / "websocket" / "session.json").read_text())["hex_examples"]
    differs = [name for name, value in EXAMPLES.items() if pack(value).hex() != recorded[name]]
    assert set(recorded) == set(EXAMPLES)
    assert not differs


def test_a_request_of_openpis_client_is_read_and_packed_again_to_the_same_bytes(golden_dir: Path) -> None:
    message = (golden_dir / "websocket" / "01_client_to_server.msgpack").read_bytes()
    read = unpack(message)
    for name, array in np.load(golden_dir / "websocket" / "request_obs.npz").items():
        key = name.replace("__", "/") if name not in read else name
        np.testing.assert_array_equal(read[key], array)
    assert pack(read) == message


@given(
    arrays.arrays(st.one_of(arrays.integer_dtypes(), arrays.floating_dtypes(), arrays.boolean_dtypes()), arrays.array_shapes(min_dims=0))
)
def test_any_array_of_numbers_comes_back(array: np.ndarray[Any, Any]) -> None:
    back = unpack(pack({"x": array}))["x"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)
    assert not back.flags.writeable


def test_arrays_in_another_order_in_memory_come_back() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for array in (image.transpose(2, 0, 1), np.asfortranarray(image), image[::-1], image[:, ::2]):
        np.testing.assert_array_equal(unpack(pack(array)), array)


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.zeros(1, "c8"), np.zeros(1, [("a", "i4")])], ids=["object", "complex", "record"]
)
def test_arrays_that_openpi_cannot_send_are_not_sent(value: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match="Unsupported dtype"):
        pack({"x": value})


class Evil:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was loaded",))


def array_of(data: Any, dtype: Any, shape: Any) -> bytes:
    return msgpack.packb({b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}) or b""


BAD = {
    "objects": array_of(pickle.dumps(Evil()), "|O", [1]),
    "a record": array_of(bytes(8), "i4,f4", [1]),
    "complex": array_of(bytes(8), "<c8", [1]),
    "void": array_of(bytes(8), "|V8", [1]),
    "no dtype": array_of(bytes(8), "nonsense", [1]),
    "a dtype that is a number": array_of(bytes(8), 4, [1]),
    "a subarray": array_of(bytes(16), "(2,2)<f4", [1]),
    "fewer bytes than the shape": array_of(bytes(4), "<f4", [2]),
    "more bytes than the shape": array_of(bytes(12), "<f4", [2]),
    "a shape below zero": array_of(bytes(4), "<f4", [-1]),
    "a shape that overflows": array_of(b"", "<f4", [2**62, 2**62]),
    "a shape that is a text": array_of(bytes(4), "<f4", "1"),
    "a shape of truths": array_of(bytes(4), "<f4", [True]),
    "data that is a list": array_of([1, 2], "<f4", [2]),
    "an object scalar": msgpack.packb({b"__npgeneric__": True, b"data": 1, b"dtype": "|O"}),
    "a pickle": pickle.dumps(Evil()),
    "nothing": b"",
    "a map that is cut off": pack({"a": np.zeros(4)})[:-3],
    "a map that says it has a thousand million entries": b"\xdf\x40\x00\x00\x00",
    "a thousand lists in one another": b"\x91" * 5000 + b"\xc0",
    "text that is no UTF-8": b"\x81\xa1\xff\xc0",
    "a list as a key": b"\x81\x91\x01\xc0",
}


@pytest.mark.parametrize("name", BAD)
def test_bytes_that_are_no_message_are_refused(name: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        unpack(BAD[name])
    assert isinstance(caught.value, RequestError)
    assert len(str(caught.value)) < 500


@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_a_message_or_refused(message: bytes) -> None:
    try:
        found = unpack(message)
    except UnreadableError:
        return
    assert repr(unpack(pack(found))) == repr(found)
