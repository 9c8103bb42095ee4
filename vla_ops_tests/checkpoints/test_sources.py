"""What `init:` names: a path, a URL, a publication, or a run of the project."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_ops.checkpoints.loading import load_into
from vla_ops.checkpoints.paligemma import PaliGemmaSource
from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.sources import checkpoint_at, default_rules, init_source, locate
from vla_ops.checkpoints.space import Keep
from vla_ops.errors import CheckpointError, PublishError
from vla_ops.kept import hold
from vla_ops.publishing.package import Package
from vla_ops.publishing.publish import Published, publish
from vla_ops.publishing.stores import LocalStore
from vla_ops_tests.checkpoints.serving import serving
from vla_ops_tests.checkpoints.small import saved, small_state
from vla_ops_tests.fetching.in_memory import same, saved_run, upload
from vla_ops_tests.services.http import HttpServer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(tmp_path_factory.mktemp("published"))


def test_init_is_a_path_a_url_or_a_run_of_the_project(run: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    mine = home / "arm" / "trainings" / "pi0_lora"
    shutil.copytree(run, mine / "2026-01-01")
    saved(mine / "2026-01-02", small_state(3), step=3)
    (mine / "2026-01-03").mkdir()
    expected = {
        str(run / "5"): run / "5",
        f"file://{run}": run / "10",
        f"{upload(run)}/5": run / "5",
        "arm/pi0_lora": mine / "2026-01-02" / "3",
        "arm/pi0_lora/2026-01-01": run / "10",
        "arm/pi0_lora/2026-01-01@5": run / "5",
    }
    for uri, checkpoint in expected.items():
        assert same(checkpoint_at(uri, home).folder, checkpoint), uri
    source = init_source("arm/pi0_lora", home)
    params, report = load_into(small_state().params, source, rules=default_rules(source))
    assert len(params) == len(report.loaded) == 5


def test_the_best_checkpoint_of_a_run_can_be_asked_for(tmp_path: Path) -> None:
    run = tmp_path / "arm" / "trainings" / "pi0" / "a"
    with CheckpointStore(run, keep=Keep(latest=3, metric="loss")) as store:
        for step, loss in ((1, 0.5), (2, 0.1), (3, 0.3)):
            store.save(step, small_state(step), metrics={"loss": loss})
    assert locate("arm/pi0@best", tmp_path) == run / "2"
    assert locate("arm/pi0", tmp_path) == run / "3"
    with pytest.raises(CheckpointError, match=r"no such checkpoint .*found 1, 2, 3; expected 9"):
        locate("arm/pi0@9", tmp_path)


def test_a_training_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    (tmp_path / "arm" / "trainings" / "pi0" / "a").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="the training has no checkpoint yet"):
        init_source("arm/pi0", tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        init_source("arm/other", tmp_path)


def test_a_single_file_is_fetched_as_paligemma(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    np.savez(tmp_path / "there" / "pt_224.npz", **{"params/img/pos_embedding": np.ones((1, 4, 8), np.float32)})
    with serving(tmp_path / "there") as served:
        source = init_source(f"{served.url}/pt_224.npz", tmp_path / "home")
    assert isinstance(source, PaliGemmaSource)
    assert {path: spec.shape for path, spec in source.specs.items()} == {"PaliGemma/img/pos_embedding": (1, 4, 8)}
    assert default_rules(source).missing is not None


def published(checkpoint: Path, store: Path) -> Published:
    files = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
    return publish(Package("policy", "arm/pi0", files, {"robot": "arm"}, {}), LocalStore(store), work=store.parent / "work")


def test_of_a_publication_it_is_the_newest_version_or_the_one_that_is_named(tmp_path: Path) -> None:
    first = published(saved(tmp_path / "one", small_state(1)), tmp_path / "store")
    second = published(saved(tmp_path / "two", small_state(2)), tmp_path / "store")
    asked = {f"{first.uri}@{first.manifest.version}": first, second.uri: second, f"file://{second.uri}": second, first.folder: first}
    for uri, done in asked.items():
        assert same(locate(uri, tmp_path / "home"), Path(done.folder)), uri
        source = init_source(uri, tmp_path / "home")
        assert source.name.endswith(f"@{done.manifest.version}"), uri
        assert same(locate(source.name, tmp_path / "home"), Path(done.folder)), uri
        _, report = load_into(small_state().params, source, rules=default_rules(source))
        assert report.source == source.name


def test_a_publication_elsewhere_is_fetched_whole_and_compared(tmp_path: Path) -> None:
    done = published(saved(tmp_path / "made", small_state(1)), tmp_path / "store")
    url = upload(tmp_path / "store")
    assert same(locate(f"{url}/arm/pi0", tmp_path / "home"), Path(done.folder))
    (damaged,) = [name for name in done.manifest.files if name.endswith("params/_METADATA")]
    (Path(done.folder) / damaged).write_bytes(b"?")
    with pytest.raises(PublishError, match=r"not what was published.*params/_METADATA"):
        locate(f"{upload(tmp_path / 'store')}/arm/pi0", tmp_path / "home")


def test_a_run_comes_before_a_publication_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    published(saved(tmp_path / "made", small_state(1)), tmp_path)
    assert locate("arm/pi0", tmp_path).name != "7"
    run = saved(tmp_path / "home/arm/trainings/pi0/a", small_state(7), step=7)
    assert locate("arm/pi0", tmp_path / "home") == run


def test_of_a_hub_that_cannot_be_reached_nothing_else_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub:lab").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="the Hub cannot be reached"):
        locate("hub:lab/pick", tmp_path)


def test_a_publication_whose_pointer_cannot_be_read_is_not_taken_for_a_folder_of_checkpoints(tmp_path: Path, http: HttpServer) -> None:
    published(saved(tmp_path / "made", small_state(1)), http.folder)
    http.trouble = lambda request, _: 403 if request.method == "GET" and request.path.endswith(".json") else "none"
    with pytest.raises(PublishError, match=r"is a publication, and cannot be read as one .*found latest.json"):
        locate(f"{http.uri}/arm/pi0/", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_what_is_used_of_a_cache_is_held(tmp_path: Path) -> None:
    done = published(saved(tmp_path / "made", small_state(1)), tmp_path / "store")
    (folder := Path(done.folder).parent / "held").mkdir()
    shutil.copytree(done.folder, folder / "content")
    hold(folder).close()
    locate(str(folder / "content"), tmp_path / "home")
    with (folder / ".in_use").open("a+") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
