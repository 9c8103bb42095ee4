"""Used from the Hub: by this project, compared with its manifest, and by LeRobot's own loader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from vla_ops.errors import PublishError
from vla_ops.policies.policy import Policy
from vla_ops.published.pull import bring, published_at, pull
from vla_ops.published.registry import publications
from vla_ops.publishing.package import package_at
from vla_ops.training.run import Run
from vla_ops_tests.policies.small_run import seen
from vla_ops_tests.publishing.hub.packages import URI, package_of, published
from vla_ops_tests.services.hub import HubServer


def test_a_policy_that_was_fetched_does_what_the_one_that_was_published_does(hub: HubServer, small_run: Run, tmp_path: Path) -> None:
    done = published(package_at(small_run.folder / "7"), tmp_path, uri="hub:lab/policy")
    version = published_at(f"hub:lab/policy@{done.manifest.version}")
    assert version is not None
    fetched = Policy.load(str(pull(version, tmp_path / "cache")), home=tmp_path / "home", seed=3)
    original = Policy.load(str(small_run.folder / "7"), home=tmp_path / "home", seed=3)
    np.testing.assert_array_equal(fetched.infer(seen()), original.infer(seen()))
    assert hub.repo("lab/policy").private


def test_one_version_is_fetched_once_whatever_names_it(hub: HubServer, tmp_path: Path) -> None:
    done = published(package_of(tmp_path, a=b"one"), tmp_path)
    versions = [published_at(uri) for uri in (URI, f"{URI}@{done.manifest.version}", f"{URI}@main")]
    folders = {pull(version, tmp_path / "cache") for version in versions if version is not None}
    assert len(folders) == 1
    assert sum("GET" in line and "/data/a" in line for line in hub.asked) == 1


def test_a_file_that_is_another_one_there_is_not_taken(hub: HubServer, tmp_path: Path) -> None:
    published(package_of(tmp_path, a="one"), tmp_path)
    repo = hub.repo("lab/pick", "dataset")
    tree = dict(repo.head.tree)
    tree["data/a"] = hub.add(b"One")
    repo.commit(tree, "main", "by hand")
    version = published_at(URI)
    assert version is not None
    with pytest.raises(PublishError, match=r"not what was published.*data/a"):
        pull(version, tmp_path / "cache")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hub:lab/nothing", "there is no such repository"),
        (f"{URI}@0123456789abcdef", "there is no such repository, or no such revision"),
        ("hub:lab/plain", r"nothing was published to this repository by vla-ops.*hf://lab/plain@main"),
    ],
)
def test_what_is_not_there_is_said(hub: HubServer, tmp_path: Path, uri: str, said: str) -> None:
    hub.make("lab/plain", files={"config.json": b"{}"})
    published(package_of(tmp_path, a="one"), tmp_path)
    with pytest.raises(PublishError, match=said):
        published_at(uri)


def test_without_a_token_a_private_repository_is_one_that_is_not_there(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.endpoint
    published(package_of(tmp_path, a="one"), tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match=r"there is no such repository.*HF_TOKEN if it is private"):
        published_at(URI)


def test_one_that_cannot_be_read_does_not_hide_the_others(hub: HubServer, tmp_path: Path) -> None:
    published(package_of(tmp_path, a="one"), tmp_path)
    published(package_of(tmp_path / "2", name="arm/other", a="two"), tmp_path, uri="hub:datasets/lab/other")
    hub.trouble = lambda _, path: web.Response(status=403) if "other" in path and "/resolve/" in path else None
    found = {type(each).__name__ for each in publications("hub:lab")}
    assert found == {"PublishError", "Version"}


def test_all_of_an_owner_is_listed(hub: HubServer, tmp_path: Path) -> None:
    hub.make("lab/plain", files={"config.json": b"{}"})
    done = published(package_of(tmp_path, a="one"), tmp_path)
    (found,) = publications("hub:lab")
    assert not isinstance(found, PublishError)
    assert found.manifest == done.manifest
    (found,) = publications(URI)
    assert not isinstance(found, PublishError)


@pytest.mark.slow
def test_lerobot_loads_a_dataset_by_its_name_alone(hub: HubServer, tmp_path: Path) -> None:
    from vla_ops_tests.training.arm import make_arm

    arm = make_arm(tmp_path / "made", [9, 7])
    published(package_at(arm.folder), tmp_path)
    code = (
        "from lerobot.datasets.lerobot_dataset import LeRobotDataset\n"
        "dataset = LeRobotDataset('lab/pick')\n"
        "print(len(dataset), dataset[0]['action'].tolist())"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ.copy(), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split()[0] == "16"
    repo = hub.repo("lab/pick", "dataset")
    assert set(repo.tags) >= {"v3.0"}
    pictures = [hub.content(repo, name) for name in repo.head.tree if name.startswith("card/")]
    assert [picture[:3] for picture in pictures] == [b"\xff\xd8\xff"] * 2


def test_a_hub_that_is_away_leaves_what_was_fetched_before(hub: HubServer, tmp_path: Path) -> None:
    done, said = published(package_of(tmp_path / "made", a="one"), tmp_path), list[str]()
    first = bring(URI, tmp_path / "cache")
    hub.trouble = lambda *_: web.Response(status=503)
    assert bring(URI, tmp_path / "cache", say=said.append) == first
    assert f"Taken is {URI}@{done.manifest.version}" in said[-1]
    with pytest.raises(PublishError, match="too busy, or broken"):
        bring(f"{URI}@main", tmp_path / "cache")
    hub.trouble = lambda *_: web.Response(status=403)
    with pytest.raises(PublishError, match="403"):
        bring(URI, tmp_path / "cache")
