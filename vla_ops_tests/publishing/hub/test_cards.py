"""The README of a repository: from the lineage, and with what people wrote around it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from aiohttp import web

from vla_ops.errors import PublishError
from vla_ops.export.run import export
from vla_ops.export.source import Given, open_source
from vla_ops.publishing.hub.cards import BEGIN, END, pictures_in
from vla_ops.publishing.hub.options import HubOptions
from vla_ops.publishing.package import package_at
from vla_ops.training.run import Run
from vla_ops_tests.publishing.hub.packages import package_of, published
from vla_ops_tests.services.hub import HubServer
from vla_ops_tests.training.mixed_run import make_mixed_run
from vla_ops_tests.training.untrained import STEP


def card(hub: HubServer, name: str = "lab/pick", kind: str = "dataset") -> tuple[dict, str]:
    """Metadata and text of the card in `main`."""
    text = hub.content(hub.repo(name, kind), "README.md").decode()
    _, data, body = text.split("---\n", 2)
    return yaml.safe_load(data), body


@pytest.fixture
def policy(hub: HubServer, small_run: Run, tmp_path: Path) -> tuple[dict, str]:
    published(package_at(small_run.folder / "7"), tmp_path, uri="hub:lab/policy", options=HubOptions(licence="apache-2.0"))
    return card(hub, "lab/policy", "model")


def test_a_policys_metadata_are_what_the_hub_finds_it_by(policy: tuple[dict, str]) -> None:
    data, _ = policy
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == ("apache-2.0", "openpi", "robotics")
    assert {"robotics", "vla-ops", "openpi", "pi0", "arm"} <= set(data["tags"])


def test_a_policy_says_what_it_sees_does_and_was_made_of(policy: tuple[dict, str], small_run: Run) -> None:
    _, text = policy
    recipe = small_run.recipe
    dims = [dim.name for dim in recipe.spec.action_dims]
    assert all(f"{name} (" in text for name in dims)
    assert all(name in text for name in recipe.spec.cameras)
    assert "vla-ops serve hub:lab/policy@" in text
    assert "policy = policy_config.create_trained_policy" in text
    assert recipe.dataset_version in text
    assert "None was measured" in text
    assert "They compare predicted actions" not in text


def test_a_policy_without_a_licence_names_none(hub: HubServer, small_run: Run, tmp_path: Path) -> None:
    published(package_at(small_run.folder / "7"), tmp_path, uri="hub:lab/policy")
    assert "license" not in card(hub, "lab/policy", "model")[0]


def test_what_people_write_around_it_stays(hub: HubServer, tmp_path: Path) -> None:
    published(package_of(tmp_path, a="one"), tmp_path)
    repo = hub.repo("lab/pick", "dataset")
    written = hub.content(repo, "README.md").decode().replace("---\n", "---\npretty_name: Picking\n", 1)
    written = written.replace(BEGIN, f"# Our arm\n\nby hand\n\n{BEGIN}") + "\n## Thanks\n"
    tree = dict(repo.head.tree)
    tree["README.md"] = hub.add(written.encode())
    repo.commit(tree, "main", "by hand")
    done = published(package_of(tmp_path, a="two"), tmp_path)
    data, text = card(hub)
    assert data["pretty_name"] == "Picking"
    assert text.startswith("\n# Our arm\n\nby hand\n\n")
    assert text.rstrip().endswith("## Thanks")
    assert text.count(BEGIN) == text.count(END) == 1
    assert done.manifest.version in text


def test_the_card_is_no_part_of_a_version(hub: HubServer, tmp_path: Path) -> None:
    package = package_of(tmp_path, a="one")
    own = tmp_path / "README.md"
    versions = set()
    for words in ("first words", "second words"):
        own.write_text(f"---\nlicense: mit\ntags: [LeRobot]\n---\n\n{words}\n")
        done = published(type(package)(**{**vars(package), "files": {**package.files, "README.md": own}}), tmp_path)
        versions.add(done.manifest.version)
        data, text = card(hub)
        assert words in text
        assert (data["license"], data["tags"]) == ("mit", ["LeRobot", "vla-ops"])
    assert len(versions) == 1


def by_hand(hub: HubServer, **files: str) -> None:
    """Somebody commits to `main` on the Hub's page."""
    repo = hub.repos.get(("dataset", "lab/pick")) or hub.make("lab/pick", "dataset")
    repo.commit({**repo.head.tree, **{name: hub.add(text.encode()) for name, text in files.items()}}, "main", "by hand")


def test_pictures_of_others_stay(hub: HubServer, tmp_path: Path) -> None:
    published(package_of(tmp_path, a="one"), tmp_path)
    by_hand(hub, **{"card/rig.jpg": "a picture"})
    published(package_of(tmp_path, a="two"), tmp_path)
    assert "card/rig.jpg" in hub.repo("lab/pick", "dataset").head.tree


def test_pictures_are_those_that_our_part_shows() -> None:
    assert pictures_in(f"![x](card/before.jpg) {BEGIN} ![x](card/a.jpg) | ![y](card/b c.jpg) {END} ![z](card/after.jpg)") == {
        "card/a.jpg",
        "card/b c.jpg",
    }


@pytest.mark.parametrize(
    ("card_there", "tags"),
    [("---\r\ntags:\r\n- mine\r\n---\r\nwords\r\n", ["mine", "vla-ops"]), ("---\ntags: mine\n---\nwords\n", ["mine", "vla-ops"])],
    ids=["lines as Windows ends them", "a single tag"],
)
def test_metadata_are_read_as_people_write_them(hub: HubServer, tmp_path: Path, card_there: str, tags: list[str]) -> None:
    by_hand(hub, **{"README.md": card_there})
    published(package_of(tmp_path, a="one"), tmp_path)
    data, text = card(hub)
    assert data["tags"] == tags
    assert "words" in text
    assert "---" not in text.split("words")[0]


def test_a_card_that_cannot_be_read_is_said_before_anything_is_sent(hub: HubServer, tmp_path: Path) -> None:
    by_hand(hub, **{"README.md": "---\ntags: [\n---\nwords\n"})
    with pytest.raises(PublishError, match=r"the card that is there cannot be read.*README.md"):
        published(package_of(tmp_path, a="one"), tmp_path)
    assert not any("/preupload/" in line for line in hub.asked)


def test_a_card_that_the_hub_refuses_is_said_before_anything_is_sent(hub: HubServer, tmp_path: Path) -> None:
    refused = web.json_response({"errors": [{"message": '"license" must be one of [mit, ...]'}]}, status=400)
    hub.trouble = lambda _, path: refused if path == "/api/validate-yaml" else None
    with pytest.raises(PublishError, match=r"the Hub refuses the card.*must be one of.*Correct the licence"):
        published(package_of(tmp_path, a="one"), tmp_path)
    assert not any("/preupload/" in line for line in hub.asked)


def test_an_rlds_dataset_says_how_tfds_loads_it(hub: HubServer, tmp_path: Path) -> None:
    package = package_of(tmp_path, a="one")
    name = "arm_pick/1.0.0/dataset_info.json"
    done = published(type(package)(**{**vars(package), "files": {name: package.files["data/a"]}}), tmp_path)
    folder = f'snapshot_download("lab/pick", repo_type="dataset", revision="version-{done.manifest.version}") + "/arm_pick/1.0.0"'
    assert f"dataset = tfds.builder_from_directory({folder}).as_dataset()" in card(hub)[1]


@pytest.mark.slow
def test_a_mixtures_policy_names_its_sources_and_the_export_of_one_how_it_is_loaded(hub: HubServer, tmp_path: Path) -> None:
    run = make_mixed_run(tmp_path / "mixed")
    published(package_at(run.folder / str(STEP)), tmp_path, uri="hub:lab/mixed")
    _, text = card(hub, "lab/mixed", "model")
    assert f"| mixture of | {', '.join(source.name for source in run.recipe.sources)} |" in text
    source = open_source(str(run.folder / str(STEP)), run.home, given=Given(asset_id="left"))
    exported = export(source, tmp_path / "out", layout="lerobot", precision="float32")
    published(package_at(exported.folder), tmp_path, uri="hub:lab/mixed_torch")
    data, text = card(hub, "lab/mixed_torch", "model")
    assert (data["library_name"], "lerobot" in data["tags"]) == ("lerobot", True)
    assert "LeRobot by itself has no model of these sizes" in text
    assert "vla-ops serve hub:lab/mixed_torch@" in text
