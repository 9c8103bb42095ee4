"""The section on where something is published."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vla_ops.spec.base import Strict

_S3, _GCS, HUB = "s3://", "gs://", "hub:"
# Of the Hub's client: it takes no such names.
_NOT_TAKEN = {".git", ".cache"}
_NAME_PARTS = 2
_OF_THE_HUB = {"hub", "private", "licence", "hub_up_to_gb"}


def hub_name(repo_id: str) -> str:
    """The name of a repository on the Hub, as it is. Raise ValueError for one that the Hub refuses."""
    # The Hub's own rules (huggingface_hub.utils.validate_repo_id), without importing it on the path that loads definitions.
    name = repo_id.split("/")
    if len(name) != 2 or not all(re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?", part) for part in name):
        raise ValueError(
            f"{repo_id!r}: the Hub takes `owner/name` of letters, digits, '-', '_', '.', not starting or ending with '-' or '.'"
        )
    if "--" in repo_id or ".." in repo_id or repo_id.endswith(".git") or any(len(p) > 96 for p in name):
        raise ValueError(f"{repo_id!r}: the Hub refuses '--', '..', a name ending in '.git' and names over 96 characters")
    return repo_id


def hub_folder(uri: str) -> tuple[str, str]:
    """Repository and folder of `hf://datasets/OWNER/NAME[/FOLDER]`. Raise ValueError for what cannot be one."""
    kind, *parts = uri.removeprefix("hf://").rstrip("/").split("/")
    if not uri.startswith("hf://") or kind != "datasets" or len(parts) < _NAME_PARTS:
        raise ValueError("what machines share on the Hub is a dataset repository: hf://datasets/OWNER/NAME, and a folder of it behind that")
    repo_id, folder = hub_name("/".join(parts[:_NAME_PARTS])), parts[_NAME_PARTS:]
    if odd := [part for part in folder if not part.strip(".") or part in _NOT_TAKEN or re.search(r"[@?#\\\s]", part)]:
        raise ValueError(f"{odd[0]!r}: the Hub takes no folder of this name")
    return repo_id, "/".join(folder)


def export_name(hub: str, layout: str) -> str:
    """The repository of an export beside that of its checkpoint. Raise ValueError for a name that the Hub refuses."""
    return hub_name(f"{hub}_torch_{layout}")


class PublishSpec(Strict):
    """A place for publications (docs/publishing.md). Keys and tokens come from the environment or the cloud's own chain, never from here.

    With both `store` and `hub` the size decides.
    """

    store: str | None = None
    """s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, or a folder: relative ones are below VLA_OPS_HOME, in a store too, but for hf://."""
    hub: str | None = None
    """OWNER/NAME on the Hugging Face Hub. An export for PyTorch gets `_torch_LAYOUT` behind it."""
    private: bool = True
    """On the Hub: whether only its owner's people see it. A repository that is there must be so already."""
    licence: str | None = None
    """On the Hub, of a policy, for its card: an SPDX id in lower case. A dataset's is `dataset.licence`."""
    hub_up_to_gb: float = Field(default=300, gt=0)
    """With both: what is larger goes to the store. 300 GB is what the Hub recommends for a repository at most."""
    name: str | None = None
    """Below it, where it is not to be ROBOT/TRAINING or ROBOT/lerobot_v3."""
    endpoint: str | None = None
    """Of an S3-compatible store that is not Amazon's. Default: AWS_ENDPOINT_URL."""
    profile: str | None = None
    """Of the AWS configuration."""
    region: str | None = None
    """Of the bucket, where the configuration does not say it."""
    acl: str | None = None
    """Canned ACL of the objects, such as `bucket-owner-full-control`."""
    storage_class: str | None = None
    """Such as `STANDARD_IA`."""
    sse: Literal["AES256", "aws:kms"] | None = None
    """Encryption by the store."""
    sse_kms_key: str | None = None
    """With `aws:kms`: the id of a key that is not the bucket's own."""
    max_bandwidth_mb_s: float | None = Field(default=None, gt=0)
    """Send no faster than this."""
    usd_per_gb_month: float | None = Field(default=None, ge=0)
    """What the store takes for keeping: then it is said before an upload what it adds to the bill."""

    @property
    def options(self) -> dict[str, Any]:
        """What is said of the store besides its place."""
        return self.model_dump(exclude={"name", "store", *_OF_THE_HUB}, exclude_none=True)

    @property
    def places(self) -> list[str]:
        """Where it may go, as a person writes it."""
        return [place for place in (self.hub and f"{HUB}{self.hub}", self.store) if place is not None]

    @field_validator("store")
    @classmethod
    def _is_known(cls, store: str | None) -> str | None:
        if store is None:
            return None
        if store.startswith(HUB):
            raise ValueError(f"store {store!r}: write `hub: {store.removeprefix(HUB)}` for the Hugging Face Hub")
        if "://" in store and not store.startswith((_S3, _GCS)):
            raise ValueError(f"store {store!r}: publications go to s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or to a folder")
        if "://" in store and (not store.partition("://")[2].split("/")[0] or "@" in store or "?" in store):
            raise ValueError("store: a bucket and a prefix, without keys or a query: keys come from the environment")
        return store.rstrip("/")

    @field_validator("hub")
    @classmethod
    def _is_a_repository(cls, hub: str | None) -> str | None:
        return None if hub is None else hub_name(hub.removeprefix(HUB))

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not all(part.strip(".") and part == part.strip() and "@" not in part for part in name.split("/")):
            raise ValueError(f"name {name!r}: parts between slashes, none of them empty, `.` or `..`, and no @")
        return name

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.places:
            raise ValueError("say where: `store: s3://BUCKET/PREFIX` (or a folder), or `hub: OWNER/NAME`, or both")
        if self.options and not (self.store or "").startswith(_S3):
            instead = "the store is a folder" if self.store else "no store is named"
            raise ValueError(f"{', '.join(self.options)}: these are for s3://, and {instead}")
        # By their values: a recipe that was kept has all keys.
        of_the_hub = sorted(key for key in _OF_THE_HUB if getattr(self, key) != type(self).model_fields[key].default)
        if self.hub is None and of_the_hub:
            raise ValueError(f"{', '.join(of_the_hub)}: these are for the Hugging Face Hub, which is not named: `hub: OWNER/NAME`")
        return self
