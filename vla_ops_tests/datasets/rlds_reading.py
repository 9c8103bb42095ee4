"""Write small RLDS views, and read them by a second way: a bitwise CRC and a parser that knows only protobuf's wire format."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image

from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.datasets.rlds import RldsSettings, write_rlds
from vla_ops.robot import RobotSpec
from vla_ops_tests.datasets.episode_folders import WIDTH, Kind, spec

ROLES = {"cam_high": "base", "cam_left": "left_wrist", "cam_right": "right_wrist", "cam_wrist": "left_wrist"}


def robot_spec(kind: Kind) -> RobotSpec:
    """A spec of `kind` whose cameras have the roles that go with their names; others have none."""
    base = spec(kind)
    cameras = {name: camera.model_copy(update={"role": ROLES.get(name)}) for name, camera in base.cameras.items()}
    return base.model_copy(update={"cameras": cameras})


KIND = Kind(codec="h264", cameras=("cam_high", "cam_left", "cam_right", "cam_low"))
SPEC = robot_spec(KIND)
# As wide as the videos, so that barcodes can be read.
SETTINGS = RldsSettings(image_size=WIDTH)
LENGTHS = [12, 9, 15, 10, 8]
IMAGES = {"image": "cam_high", "left_wrist_image": "cam_left", "right_wrist_image": "cam_right"}


def views(root, given, *, held_out=(), **options):
    """The v3.0 dataset of the episodes, and its RLDS view."""
    v30 = write_lerobot_v3(root / "lerobot_v3", given, spec=options.get("spec", SPEC), robot="Arm", held_out=held_out)
    options = {"spec": SPEC, "robot": "Arm", "settings": SETTINGS, **options}
    return v30, write_rlds(root / "rlds", v30.folder, given, **options)


def bitwise_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def split_records(path: Path) -> list[tuple[bytes, int, bytes, int]]:
    """(length bytes, their CRC, payload, its CRC) of every record."""
    data, records, at = path.read_bytes(), [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        (of_length,), (of_payload,) = struct.unpack_from("<I", data, at + 8), struct.unpack_from("<I", data, at + 12 + size)
        records.append((data[at : at + 8], of_length, data[at + 12 : at + 12 + size], of_payload))
        at += 16 + size
    assert at == len(data)
    return records


def parse_example(payload: bytes) -> dict[str, list[Any]]:
    """Feature name -> values."""
    features: dict[str, list[Any]] = {}
    for _, block in _delimited(payload):
        for _, entry in _delimited(block):
            parts = dict(_delimited(entry))
            ((kind, values),) = _delimited(parts[2])
            features[parts[1].decode()] = _values(kind, values)
    return features


def _values(kind: int, data: bytes) -> list[Any]:
    match kind:
        case 1:
            return [value for _, value in _delimited(data)]
        case 2:
            ((_, packed),) = _delimited(data)
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
        case _:
            ((_, packed),) = _delimited(data)
            found, at = [], 0
            while at < len(packed):
                value, at = _number(packed, at)
                found.append(value)
            return found


def _delimited(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        tag, at = _number(data, at)
        assert tag % 8 == 2
        size, at = _number(data, at)
        found.append((tag // 8, data[at : at + size]))
        at += size
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    digits = []
    while True:
        digits.append(data[at] % 128)
        at += 1
        if data[at - 1] < 128:
            return sum(digit * 128**k for k, digit in enumerate(digits)), at


def example_class() -> Any:
    """protobuf's own class for `tf.train.Example`."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    lists = {"BytesList": kinds.TYPE_BYTES, "FloatList": kinds.TYPE_FLOAT, "Int64List": kinds.TYPE_INT64}
    for name, type_ in lists.items():
        file.message_type.add(name=name).field.add(name="value", number=1, type=type_, label=kinds.LABEL_REPEATED)
    feature, features, example = (file.message_type.add(name=name) for name in ("Feature", "Features", "Example"))
    feature.oneof_decl.add(name="kind")
    for number, (name, type_name) in enumerate(zip(("bytes_list", "float_list", "int64_list"), lists, strict=True), 1):
        _message(feature, name, number, type_name).oneof_index = 0
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    _message(entry, "value", 2, "Feature")
    _message(features, "feature", 1, "Features.FeatureEntry").label = kinds.LABEL_REPEATED
    _message(example, "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def _message(parent: Any, name: str, number: int, type_name: str) -> Any:
    kinds = descriptor_pb2.FieldDescriptorProto
    return parent.field.add(name=name, number=number, type=kinds.TYPE_MESSAGE, type_name=f".t.{type_name}", label=kinds.LABEL_OPTIONAL)


def read_split(dataset: Path, split: str) -> list[dict[str, list[Any]]]:
    """The Examples of a split, in the order of its shards."""
    paths = sorted(dataset.glob(f"*-{split}.tfrecord-*"))
    return [parse_example(payload) for path in paths for _, _, payload, _ in split_records(path)]


def pixels(jpeg: bytes) -> np.ndarray:
    """[height, width, 3] uint8."""
    return np.asarray(Image.open(io.BytesIO(jpeg)))
