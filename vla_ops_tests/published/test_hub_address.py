"""Addresses on the Hub, and names that it refuses: by its own client's rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st

from vla_ops.errors import PublishError
from vla_ops.published.hub_address import HubAddress, owner_of
from vla_ops.spec.publishing import hub_name


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hub:lab/pick", HubAddress("lab/pick")),
        ("hub:lab/pick@version-1", HubAddress("lab/pick", revision="version-1")),
        ("hub:datasets/lab/pick@main", HubAddress("lab/pick", is_dataset=True, revision="main")),
        ("hub:lab", None),
        ("s3://lab/pick", None),
        ("lab/pick", None),
    ],
)
def test_an_address_is_read_from_a_uri(uri: str, expected: HubAddress | None) -> None:
    assert HubAddress.of(uri) == expected


def test_an_owner_is_told_from_a_repository() -> None:
    assert [owner_of(uri) for uri in ("hub:lab", "hub:lab/", "hub:lab/pick", "hub:", "lab")] == ["lab", "lab", None, None, None]


def test_a_version_is_looked_for_by_its_tag_first() -> None:
    version = "0123456789abcdef"
    assert HubAddress("lab/pick", revision=version).revisions == (f"version-{version}", version)
    assert HubAddress("lab/pick", revision="v3.0").revisions == ("v3.0",)
    assert HubAddress("lab/pick").revisions == ("main",)


@pytest.mark.parametrize("uri", ["hub:lab/a--b", "hub:lab/.pick", "hub:a/b/c", "hub:datasets/pick", "hub:lab/pick.git@1"])
def test_a_name_that_the_hub_refuses_is_said(uri: str) -> None:
    with pytest.raises(PublishError, match="there can be no such repository"):
        HubAddress.of(uri)


@given(st.from_regex(r"\A[A-Za-z0-9._-]{0,6}(/[A-Za-z0-9._ -]{0,6}){0,2}\Z"))
@example("a/" + "b" * 97)
@example("lab/pick.git")
def test_whatever_we_take_the_hub_takes(name: str) -> None:
    assert is_refused(hub_name, name) or not is_refused(validate_repo_id, name)


def is_refused(check: Callable[[str], object], name: str) -> bool:
    try:
        check(name)
    except (ValueError, HFValidationError):
        return True
    return False
