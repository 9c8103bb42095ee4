"""The section on where conversion runs. What is made is the same bytes everywhere, so nothing here makes an episode stale."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from vla_ops.spec.base import Strict


class LocalConversion(Strict):
    """Worker processes on this machine."""

    workers: int | None = Field(default=None, ge=1)
    """Recordings converted at once. Default: VLA_OPS_WORKERS, or one for every two cores."""


class RayConversion(Strict):
    """An existing Ray cluster whose nodes have this project installed (extra `ray`); one task a recording."""

    address: str | None = None
    """`auto` or `host:port` from a machine of the cluster, `ray://host:10001` from any other. Default: RAY_ADDRESS."""
    resource: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Instead of an address: the name of a Dagster resource that is a `dagster_ray.RayResource`, such as a KubeRay cluster."""
    cpus: int = Field(default=1, ge=1)
    """Cores of a node that one recording takes."""
    max_in_flight: int = Field(default=64, ge=1)
    """Recordings handed to the cluster at once, whether it has begun them or not."""
    store: str = "shared"
    """`shared`: the nodes see VLA_OPS_HOME at the same path. Or a folder that they and this machine can write, through which finished
    episodes travel: `s3://bucket/prefix`, `file:///mnt/...` or any other fsspec URI."""
    wait_for_node_s: float = Field(default=60.0, ge=0)
    """How long to wait while no node of the cluster has so many cores at all, as when it first has to be scaled up."""

    @field_validator("address")
    @classmethod
    def _exists_already(cls, address: str | None) -> str | None:
        if address is not None and (not address.strip() or address == "local"):
            raise ValueError(f"address {address!r}: write that of a running cluster: auto, host:port or ray://host:10001")
        return address

    @field_validator("store")
    @classmethod
    def _is_shared_or_uri(cls, store: str) -> str:
        if store != "shared" and "://" not in store:
            raise ValueError(f"store {store!r}: write `shared`, or the URI of a folder such as s3://bucket/prefix or file:///mnt/staging")
        return store.rstrip("/")

    @model_validator(mode="after")
    def _one_cluster(self) -> Self:
        if self.address is not None and self.resource is not None:
            raise ValueError("ray: write either `address` or `resource`; each names the cluster")
        return self


class ConversionSpec(Strict):
    """Where recordings are converted: at most one of the keys; on this machine if there is none."""

    local: LocalConversion | None = None
    """Worker processes on this machine."""
    ray: RayConversion | None = None
    """The nodes of a Ray cluster."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.local is not None and self.ray is not None:
            raise ValueError("conversion: write either {local: ...} or {ray: ...}")
        return self
