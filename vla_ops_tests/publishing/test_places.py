"""Which of two places something goes to, and that the reason is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.publishing.places import chosen
from vla_ops.spec.publishing import PublishSpec
from vla_ops_tests.publishing.packages import package_of


@pytest.mark.parametrize(
    ("asked", "place", "said"),
    [
        ({"store": "s3://lab/x"}, "s3://lab/x", None),
        ({"hub": "lab/x"}, "hub:lab/x", None),
        (
            {"hub": "lab/x", "store": "s3://lab/x"},
            "hub:lab/x",
            "goes to hub:lab/x: it is 3e-09 GB, and up to 300 GB (hub_up_to_gb) go there",
        ),
        (
            {"hub": "lab/x", "store": "s3://lab/x", "hub_up_to_gb": 1e-9},
            "s3://lab/x",
            "goes to s3://lab/x: it is 0.0 GB, and hub_up_to_gb is 1e-09",
        ),
    ],
)
def test_a_package_goes_where_its_size_says(tmp_path: Path, asked: dict, place: str, said: str | None) -> None:
    heard: list[str] = []
    assert chosen(PublishSpec(**asked), package_of(tmp_path, a="one"), heard.append) == place
    assert heard == ([] if said is None else [f"arm/pick {said}"])
