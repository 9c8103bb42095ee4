"""What is said before and during an upload."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.publishing import progress
from vla_ops.publishing.progress import Progress, Rates, monthly_cost
from vla_ops.publishing.publish import publish
from vla_ops.publishing.stores import LocalStore
from vla_ops_tests.publishing.packages import package_of


def test_the_rate_of_the_last_time_says_how_long_it_will_take(tmp_path: Path) -> None:
    Rates(tmp_path).learn("s3://lab", 100_000_000, 10.0)
    Rates(tmp_path).learn("hub:", 10_000_000, 10.0)
    assert Rates(tmp_path).expected("s3://lab", 600_000_000) == ", about 1.0 min at the 10.0 MB/s of the last time"
    assert Rates(tmp_path).expected("hub:", 10_000_000_000) == ", about 2.8 h at the 1.0 MB/s of the last time"
    assert Rates(tmp_path).expected("s3://lab", 8_000_000) == ", about 1 s at the 10.0 MB/s of the last time"


@pytest.mark.parametrize(("place", "size"), [("s3://lab", 1_000_000), ("s3://others", 10**9)])
def test_of_little_and_of_unknown_places_nothing_is_expected(tmp_path: Path, place: str, size: int) -> None:
    Rates(tmp_path).learn("s3://lab", 100_000_000, 10.0)
    Rates(tmp_path).learn("s3://lab", 100, 10.0)
    assert Rates(tmp_path).expected(place, size) == ""


def test_a_file_of_rates_that_is_damaged_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "rates.json").write_text("{")
    assert Rates(tmp_path).expected("s3://lab", 10**9) == ""
    Rates(tmp_path).learn("s3://lab", 10**9, 1.0)
    assert "1000.0 MB/s" in Rates(tmp_path).expected("s3://lab", 10**9)


def test_a_price_becomes_a_sum() -> None:
    assert monthly_cost(50 * 10**9, 0.023) == ", 1.15 USD a month to keep at 0.023 USD per GB"
    assert monthly_cost(50 * 10**9, None) == ""


def test_it_is_said_now_and_then_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SAY_EVERY_S", 0.0)
    said: list[str] = []
    going = Progress(said.append, tmp_path, "s3://lab")
    going.begin("sending", 4_000_000)
    going.sent(1_000_000)
    going.sent(3_000_000)
    assert [line.split(",")[0] for line in said] == ["sending", "1 of 4 MB", "4 of 4 MB"]
    assert said[2].endswith(" 0 s left")


def test_publishing_says_both(tmp_path: Path) -> None:
    said: list[str] = []
    store = LocalStore(tmp_path / "store")
    Rates(tmp_path / "work").learn(store.uri, 10**9, 100.0)
    package = package_of(tmp_path, a="x" * 9_000_000)
    publish(package, store, work=tmp_path / "work", usd_per_gb_month=2.0, say=said.append)
    (line,) = [line for line in said if line.startswith("sending")]
    assert line.endswith(", about 1 s at the 10.0 MB/s of the last time, 0.02 USD a month to keep at 2 USD per GB")
    assert "10.0 MB/s" not in Rates(tmp_path / "work").expected(store.uri, 10**9)
