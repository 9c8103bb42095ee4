"""Write small MCAP recordings with the libraries that robots use: ROS 2, ROS 1, protobuf, JSON and FlatBuffers messages.

Every writer takes `joints` and `cameras` by topic. Stamps are log times; the publish time is `PUBLISH_LEAD_NS` earlier and the
header's stamp `HEADER_LEAD_NS` earlier, so that a reader that takes the wrong one is found out.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter

from vla_ops_tests.recordings import flatbuffer_files as fbs
from vla_ops_tests.recordings.pictures import Picture, as_jpeg, frame_picture

type Encoding = Literal["ros2", "ros1", "protobuf", "json", "airbot"]

START_NS = 1_750_000_000_000_000_000
PUBLISH_LEAD_NS = 5_000_000
HEADER_LEAD_NS = 7_000_000

_ROS2_HEADER = "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id"
_ROS1_HEADER = "MSG: std_msgs/Header\nuint32 seq\ntime stamp\nstring frame_id"
_RULE = "\n" + "=" * 80 + "\n"
_JOINT_STATE = "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort"
_COMPRESSED = "std_msgs/Header header\nstring format\nuint8[] data"
_IMAGE = "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data"
_POSE = (
    "std_msgs/Header header\ngeometry_msgs/Pose pose"
    + _RULE
    + "MSG: geometry_msgs/Pose\nPoint position\nQuaternion orientation"
    + _RULE
    + "MSG: geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z"
    + _RULE
    + "MSG: geometry_msgs/Quaternion\nfloat64 x\nfloat64 y\nfloat64 z\nfloat64 w"
)
_MULTI_ARRAY = (
    "MultiArrayLayout layout\nfloat32[] data"
    + _RULE
    + "MSG: std_msgs/MultiArrayLayout\nMultiArrayDimension[] dim\nuint32 data_offset"
    + _RULE
    + "MSG: std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride"
)
ROS_DEFINITIONS = {
    "JointState": ("sensor_msgs", _JOINT_STATE),
    "CompressedImage": ("sensor_msgs", _COMPRESSED),
    "Image": ("sensor_msgs", _IMAGE),
    "PoseStamped": ("geometry_msgs", _POSE),
    "Float32MultiArray": ("std_msgs", _MULTI_ARRAY),
}


@dataclass(frozen=True)
class Joints:
    """A topic of joint positions: stamps int64 [n], values [n, width]. Velocities are the negative of the positions."""

    stamps_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    names: tuple[str, ...] = ()

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names, j1, j2, ... if none are given."""
        return self.names or tuple(f"j{k + 1}" for k in range(self.values.shape[1]))


@dataclass(frozen=True)
class Camera:
    """A topic of JPEG images (`raw`: of raw pixels): stamps int64 [n] and pictures."""

    stamps_ns: npt.NDArray[np.int64]
    pictures: Sequence[Picture]
    raw: bool = False


@dataclass(frozen=True)
class Sample:
    """One message of the topic `topic`; `content` is what a library's writer takes."""

    topic: str
    kind: str
    log_ns: int
    content: Any


@dataclass(frozen=True)
class Extras:
    """Metadata records by name, and attachments as (name, media type, data)."""

    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    attachments: Sequence[tuple[str, str, bytes]] = ()


def stamps(count: int, rate_hz: float = 20.0, start_ns: int = START_NS) -> npt.NDArray[np.int64]:
    """`count` stamps at `rate_hz`."""
    return start_ns + np.round(np.arange(count) * 1e9 / rate_hz).astype(np.int64)


def joints(count: int = 40, width: int = 7, rate_hz: float = 100.0, *, start_ns: int = START_NS, names: Sequence[str] = ()) -> Joints:
    """Slow sines in float32 precision."""
    values = np.sin(np.arange(count)[:, None] / 20 + np.arange(width)).astype(np.float32).astype(np.float64)
    return Joints(stamps(count, rate_hz, start_ns), values, tuple(names))


def camera(
    count: int = 12,
    rate_hz: float = 30.0,
    *,
    start_ns: int = START_NS,
    number: int = 0,
    size: tuple[int, int] = (48, 80),
    raw: bool = False,
) -> Camera:
    """A camera whose picture k shows k."""
    return Camera(stamps(count, rate_hz, start_ns), [frame_picture(k, camera=number, size=size) for k in range(count)], raw)


def write_mcap(
    path: Path,
    encoding: Encoding = "ros2",
    *,
    joints: Mapping[str, Joints] | None = None,
    cameras: Mapping[str, Camera] | None = None,
    extras: Extras | None = None,
    chunk_size: int = 16_000,
    topic_after_topic: bool = False,
) -> Path:
    """Write joints and cameras as messages of `encoding`, in order of time or one topic after the other."""
    samples = [s for topic, j in (joints or {}).items() for s in joint_samples(topic, j)]
    samples += [s for topic, c in (cameras or {}).items() for s in camera_samples(topic, c)]
    if not topic_after_topic:
        samples.sort(key=lambda s: s.log_ns)
    return write_samples(path, encoding, samples, extras=extras, chunk_size=chunk_size)


def joint_samples(topic: str, joints: Joints) -> Iterator[Sample]:
    """Joint states, as {name, position, velocity}."""
    for stamp, row in zip(joints.stamps_ns.tolist(), joints.values.tolist(), strict=True):
        yield Sample(topic, "JointState", stamp, {"name": list(joints.joint_names), "position": row, "velocity": [-v for v in row]})


def camera_samples(topic: str, camera: Camera) -> Iterator[Sample]:
    """Images, as {format, data} or {height, width, encoding, step, data}."""
    for stamp, picture in zip(camera.stamps_ns.tolist(), camera.pictures, strict=True):
        if camera.raw:
            height, width, _ = picture.shape
            content = {"height": height, "width": width, "encoding": "rgb8", "step": 3 * width, "data": picture.tobytes()}
            yield Sample(topic, "Image", stamp, content)
        else:
            yield Sample(topic, "CompressedImage", stamp, {"format": "jpeg", "data": as_jpeg(picture)})


def write_samples(
    path: Path, encoding: Encoding, samples: Sequence[Sample], *, extras: Extras | None = None, chunk_size: int = 16_000
) -> Path:
    """Write samples in the order given, the attachments and metadata after them."""
    extras = extras or Extras()
    with open(path, "wb") as file:
        _WRITERS[encoding](file, samples, extras, chunk_size)
    return path


def _add_extras(writer: Any, extras: Extras) -> None:
    for name, values in extras.metadata.items():
        writer.add_metadata(name, dict(values))
    for name, media_type, data in extras.attachments:
        writer.add_attachment(create_time=START_NS, log_time=START_NS, name=name, media_type=media_type, data=data)


def _write_ros2(file: Any, samples: Sequence[Sample], extras: Extras, chunk_size: int) -> None:
    from mcap_ros2.writer import Writer

    with Writer(file, chunk_size=chunk_size) as writer:
        schemas = {}
        for sample in samples:
            if sample.kind not in schemas:
                package, definition = ROS_DEFINITIONS[sample.kind]
                schemas[sample.kind] = writer.register_msgdef(f"{package}/msg/{sample.kind}", definition + _RULE + _ROS2_HEADER)
            message = _with_defaults(sample)
            if "pose" not in message and sample.kind != "Float32MultiArray":
                message["header"] = {"stamp": _split(sample, "nanosec"), "frame_id": "base"}
            writer.write_message(sample.topic, schemas[sample.kind], message, sample.log_ns, sample.log_ns - PUBLISH_LEAD_NS)
        _add_extras(writer, extras)


def _write_ros1(file: Any, samples: Sequence[Sample], extras: Extras, chunk_size: int) -> None:
    from mcap_ros1._vendor.genpy import Time
    from mcap_ros1._vendor.genpy.dynamic import generate_dynamic
    from mcap_ros1.writer import Writer

    classes: dict[str, Any] = {}
    with Writer(file, chunk_size=chunk_size) as writer:
        for sample in samples:
            if sample.kind not in classes:
                package, definition = ROS_DEFINITIONS[sample.kind]
                name = f"{package}/{sample.kind}"
                classes[sample.kind] = generate_dynamic(name, definition + _RULE + _ROS1_HEADER)[name]
            message = classes[sample.kind]()
            for key, value in _with_defaults(sample).items():
                setattr(message, key, value)
            header = _header_ns(sample)
            message.header.stamp = Time(header // 10**9, header % 10**9)
            writer.write_message(sample.topic, message, sample.log_ns, sample.log_ns - PUBLISH_LEAD_NS)
        _add_extras(writer, extras)


def _write_protobuf(file: Any, samples: Sequence[Sample], extras: Extras, chunk_size: int) -> None:
    from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
    from foxglove_schemas_protobuf.JointStates_pb2 import JointStates
    from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
    from mcap_protobuf.writer import Writer

    with Writer(file, chunk_size=chunk_size) as writer:
        for sample in samples:
            content = sample.content
            if sample.kind == "JointState":
                message = JointStates()
                for name, position, velocity in zip(content["name"], content["position"], content["velocity"], strict=True):
                    message.joints.add(name=name, position=position, velocity=velocity)
            else:
                message = RawImage(**content) if sample.kind == "Image" else CompressedImage(**content)
            message.timestamp.FromNanoseconds(_header_ns(sample))
            writer.write_message(sample.topic, message, sample.log_ns, sample.log_ns - PUBLISH_LEAD_NS)
        _add_extras(writer, extras)


def _write_json(file: Any, samples: Sequence[Sample], extras: Extras, chunk_size: int) -> None:
    names = {"Image": "foxglove.RawImage", "CompressedImage": "foxglove.CompressedImage"}

    def encode(sample: Sample) -> bytes:
        content = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in sample.content.items()}
        return json.dumps({"timestamp": _split(sample, "nsec"), **content}).encode()

    def schema(sample: Sample) -> tuple[str, str, bytes]:
        return names.get(sample.kind, sample.kind), "jsonschema", b'{"type": "object"}'

    _write_plain(file, samples, extras, chunk_size, encoding="json", schema=schema, encode=encode)


def _write_airbot(file: Any, samples: Sequence[Sample], extras: Extras, chunk_size: int) -> None:
    kinds = {"JointState": fbs.FLOAT_ARRAY, "CompressedImage": fbs.COMPRESSED_IMAGE, "Image": fbs.RAW_IMAGE}

    def encode(sample: Sample) -> bytes:
        content, header = sample.content, _header_ns(sample)
        if sample.kind == "JointState":
            return fbs.float_array(content["position"])
        if sample.kind == "CompressedImage":
            return fbs.compressed_image(content["data"], header, content["format"])
        pixels = np.frombuffer(content["data"], np.uint8).reshape(content["height"], content["width"], -1)
        return fbs.raw_image(pixels, header, content["encoding"])

    def schema(sample: Sample) -> tuple[str, str, bytes]:
        objects = kinds[sample.kind]
        return objects[0].name, "flatbuffer", fbs.schema_bytes(objects)

    _write_plain(file, samples, extras, chunk_size, encoding="flatbuffer", schema=schema, encode=encode)


def _write_plain(
    file: Any,
    samples: Sequence[Sample],
    extras: Extras,
    chunk_size: int,
    *,
    encoding: str,
    schema: Callable[[Sample], tuple[str, str, bytes]],
    encode: Callable[[Sample], bytes],
) -> None:
    writer = McapWriter(file, chunk_size=chunk_size)
    writer.start()
    channels: dict[str, int] = {}
    for sample in samples:
        if sample.topic not in channels:
            channels[sample.topic] = writer.register_channel(sample.topic, encoding, writer.register_schema(*schema(sample)))
        writer.add_message(channels[sample.topic], sample.log_ns, encode(sample), sample.log_ns - PUBLISH_LEAD_NS)
    _add_extras(writer, extras)
    writer.finish()


_WRITERS: dict[str, Callable[[Any, Sequence[Sample], Extras, int], None]] = {
    "ros2": _write_ros2,
    "ros1": _write_ros1,
    "protobuf": _write_protobuf,
    "json": _write_json,
    "airbot": _write_airbot,
}


def _with_defaults(sample: Sample) -> dict[str, Any]:
    defaults = {"JointState": {"effort": []}, "Image": {"is_bigendian": 0}}
    return {**defaults.get(sample.kind, {}), **sample.content}


def _header_ns(sample: Sample) -> int:
    return sample.log_ns - HEADER_LEAD_NS


def _split(sample: Sample, nanoseconds: str) -> dict[str, int]:
    return {"sec": _header_ns(sample) // 10**9, nanoseconds: _header_ns(sample) % 10**9}


def rewritten(
    source: Path,
    target: Path,
    *,
    chunked: bool = True,
    compression: CompressionType = CompressionType.ZSTD,
    summary: bool = True,
    message_indexes: bool = True,
    chunk_size: int = 16_000,
) -> Path:
    """Write the messages, attachments and metadata of an MCAP again, in the same order, with another container layout."""
    indexes = IndexType.ALL if summary else IndexType.NONE
    if not message_indexes:
        indexes &= ~IndexType.MESSAGE
    with open(source, "rb") as read, open(target, "wb") as file:
        reader = make_reader(read)
        repeat = {"repeat_channels": summary, "repeat_schemas": summary, "use_statistics": summary, "use_summary_offsets": summary}
        writer = McapWriter(file, use_chunking=chunked, compression=compression, index_types=indexes, chunk_size=chunk_size, **repeat)
        writer.start(profile=reader.get_header().profile)
        channels: dict[int, int] = {}
        for schema, channel, message in reader.iter_messages(log_time_order=False):
            if channel.id not in channels:
                schema_id = writer.register_schema(schema.name, schema.encoding, schema.data) if schema else 0
                channels[channel.id] = writer.register_channel(channel.topic, channel.message_encoding, schema_id, channel.metadata)
            writer.add_message(channels[channel.id], message.log_time, message.data, message.publish_time, message.sequence)
        extras = Extras(
            {m.name: m.metadata for m in reader.iter_metadata()}, [(a.name, a.media_type, a.data) for a in reader.iter_attachments()]
        )
        _add_extras(writer, extras)
        writer.finish()
    return target


def mp4_bytes(
    pictures: Sequence[Picture],
    stamps_ns: npt.NDArray[np.int64],
    *,
    codec: str = "libx264",
    b_frames: int = 0,
    keyframe_every: int = 10,
    comment: str | None = '{"base_stamp": %d}',
) -> bytes:
    """An mp4 as AIRBOT attaches it: variable frame rate in microseconds, the first picture's stamp in the comment."""
    import av

    micros = (stamps_ns - stamps_ns[0]) // 1000
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        if comment is not None:
            container.metadata["comment"] = comment.replace("%d", str(stamps_ns[0] // 1000))
        height, width, _ = pictures[0].shape
        stream = container.add_stream(codec, rate=1000)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1_000_000)
        stream.time_base = Fraction(1, 1_000_000)
        if codec != "mjpeg":
            stream.codec_context.gop_size = keyframe_every
        if codec == "libx264":
            stream.options = {"bf": str(b_frames), "preset": "veryfast", "crf": "18", "b-adapt": "0"}
        for micro, picture in zip(micros.tolist(), pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = micro, Fraction(1, 1_000_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
