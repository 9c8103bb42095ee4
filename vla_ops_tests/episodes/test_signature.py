from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.episodes.signature import BINS, COLUMNS, ROWS, PictureSignature, pieces
from vla_ops.spec import VideoSpec
from vla_ops_tests.episodes.mp4s import AV1, COPY, H264, write
from vla_ops_tests.episodes.streams import JpegFrames, VideoFrames


def measured(*images: np.ndarray) -> dict[str, list]:
    signature = PictureSignature()
    for image in images:
        signature.add(image)
    return signature.measured()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 255))
@settings(deadline=None, max_examples=60)
def test_a_picture_of_one_color_of_any_size_is_that_in_every_cell(height: int, width: int, grey: int) -> None:
    found = measured(np.full((height, width, 3), grey, np.uint8))
    assert found == {"signature": [grey] * (ROWS * COLUMNS), "motion": []}


def test_cells_are_in_rows_and_hold_luma() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    image[:10, 150:] = [0, 255, 0]
    cells = np.array(measured(image)["signature"]).reshape(ROWS, COLUMNS)
    assert cells[0, -1] == round(0.587 * 255)
    assert np.count_nonzero(cells) == 1


def test_what_passes_by_is_not_in_the_usual_picture_and_is_in_the_motion() -> None:
    still, passing = np.full((48, 64, 3), 100, np.uint8), np.full((48, 64, 3), 220, np.uint8)
    found = measured(*[still] * 10, *[passing] * 3, *[still] * 10)
    assert set(found["signature"]) == {100}
    assert np.flatnonzero(found["motion"]).tolist() == [9, 12]
    assert max(found["motion"]) == pytest.approx(120, abs=0.1)


def test_an_image_that_is_sampled_several_times_counts_as_often() -> None:
    signature = PictureSignature()
    signature.add(np.full((12, 16, 3), 10, np.uint8), times=5)
    signature.add(np.full((12, 16, 3), 90, np.uint8), times=2)
    found = signature.measured()
    assert set(found["signature"]) == {10}
    assert found["motion"] == [0, 0, 0, 0, 80, 0]


@given(st.lists(st.floats(-100, 100), max_size=400))
def test_pieces_are_at_most_64_and_keep_order_and_mean(values: list[float]) -> None:
    found = pieces(np.array(values))
    assert len(found) == min(BINS, len(values))
    if len(values) in (BINS, 2 * BINS, 0):
        assert found.sum() * max(1, len(values) // BINS) == pytest.approx(sum(values), abs=1e-6)
    assert pieces(np.sort(values)).tolist() == sorted(pieces(np.sort(values)).tolist())


@pytest.mark.parametrize(
    ("stream", "spec"),
    [(JpegFrames(30), COPY), (JpegFrames(30), H264), (JpegFrames(30), AV1), (VideoFrames(30), COPY), (VideoFrames(30), AV1)],
    ids=["JPEG copied", "JPEG to H.264", "JPEG to AV1", "H.264 copied", "H.264 to AV1"],
)
def test_however_a_video_is_made_its_images_are_seen_on_the_way(stream: JpegFrames, spec: VideoSpec, tmp_path: Path) -> None:
    """The same images, whether they are decoded for the encoder or, of copied ones, for the statistics."""
    found = write(tmp_path, stream, spec).measured
    expected = measured(*(stream.scene(k) for k in range(30)))
    assert len(found["signature"]) + len(found["motion"]) < 300
    assert found["signature"] == pytest.approx(expected["signature"], abs=4)
    assert found["motion"] == pytest.approx(expected["motion"], abs=1)
