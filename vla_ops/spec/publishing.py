"""The section on where something is published."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vla_ops.spec.base import Strict

_S3 = "s3://"


class PublishSpec(Strict):
    """A place for publications (docs/publishing.md). Keys come from the environment or the cloud's own chain, never from here."""

    store: str
    """s3://BUCKET/PREFIX, or a folder: relative ones are below VLA_OPS_HOME."""
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

    @property
    def options(self) -> dict[str, Any]:
        """What is said of the store besides its place."""
        return self.model_dump(exclude={"store", "name"}, exclude_none=True)

    @field_validator("store")
    @classmethod
    def _is_known(cls, store: str) -> str:
        if "://" in store and not store.startswith(_S3):
            raise ValueError(f"store {store!r}: publications go to s3://BUCKET/PREFIX or to a folder")
        if store.startswith(_S3) and (not store.removeprefix(_S3).split("/")[0] or "@" in store or "?" in store):
            raise ValueError("store: s3://BUCKET/PREFIX, without keys or a query: keys come from the environment")
        return store.rstrip("/")

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not all(part.strip(".") and part == part.strip() and "@" not in part for part in name.split("/")):
            raise ValueError(f"name {name!r}: parts between slashes, none of them empty, `.` or `..`, and no @")
        return name

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.store.startswith(_S3) and self.options:
            raise ValueError(f"{', '.join(self.options)}: these are for s3://, and the store is a folder")
        return self
