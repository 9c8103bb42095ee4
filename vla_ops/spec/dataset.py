"""The sections on what is made: videos, datasets, norm stats, and when."""

from __future__ import annotations

import difflib
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from vla_ops.spec.base import Strict
from vla_ops.spec.metrics import MetricsSpec
from vla_ops.spec.publishing import PublishSpec, hub_name


class VideoSpec(Strict):
    """How camera images are stored."""

    codec: Literal["av1", "h264", "copy"] = "av1"
    """`av1` and `h264` encode; `copy` keeps the recorded JPEG packets bit for bit (larger files, no generation loss)."""
    crf: int = Field(default=30, ge=0, le=63)
    """Quality: lower is better and larger. 30 is LeRobot's default for AV1."""
    gop: int = Field(default=2, ge=1)
    """Frames from one keyframe to the next: 2 makes random access cheap (LeRobot's default)."""
    preset: int = Field(default=12, ge=0, le=13)
    """SVT-AV1 speed preset; LeRobot's default. H.264 always uses `veryfast`."""


class RldsSpec(Strict):
    """The images and the action chunk of the RLDS dataset."""

    image_size: int = Field(default=256, ge=16, le=2048)
    """Width and height of the images, in pixels."""
    resize: Literal["stretch", "pad"] = "stretch"
    """To a square whatever the aspect, as OpenVLA-OFT's own datasets are, or with black bars."""
    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality."""
    chunk_steps: int | None = Field(default=None, ge=1)
    """Actions that OpenVLA-OFT predicts at once. Default: one second of them."""


class DatasetSpec(Strict):
    """The dataset made from the episodes."""

    repo_id: str
    """Name on the Hugging Face Hub, `owner/name`; also the dataset's name locally."""
    formats: list[Literal["lerobot_v3.0", "lerobot_v2.1", "rlds"]] = Field(default=["lerobot_v3.0"])
    """Which formats to make. `lerobot_v3.0` is always among them: the others are views of it."""
    video: VideoSpec = VideoSpec()
    """Video settings."""
    rlds: RldsSpec = RldsSpec()
    """Settings of the format `rlds`."""
    licence: str = "other"
    """Licence in the dataset card, as an SPDX id or `other`."""

    publish: PublishSpec | None = None
    """Makes the asset `published_dataset`: the version in use, in the format lerobot_v3.0."""
    metrics: MetricsSpec = MetricsSpec()
    """With `publish`: W&B, where a published version becomes an artifact of references."""

    @field_validator("formats")
    @classmethod
    def _has_what_the_others_are_views_of(cls, formats: list[str]) -> list[str]:
        if "lerobot_v3.0" not in formats:
            raise ValueError(f"formats {formats}: the others are views of lerobot_v3.0; write [{', '.join(['lerobot_v3.0', *formats])}]")
        return formats

    @field_validator("publish")
    @classmethod
    def _has_one_licence(cls, publish: PublishSpec | None) -> PublishSpec | None:
        if publish is not None and publish.licence is not None:
            raise ValueError("publish.licence is that of a policy: write it as `dataset.licence`")
        return publish

    @model_validator(mode="after")
    def _has_what_is_referred_to(self) -> Self:
        if self.metrics.wandb != "off" and self.publish is None:
            raise ValueError("metrics.wandb refers to what is published: say where (`publish: {store: ...}`), or leave it out")
        return self

    @field_validator("repo_id")
    @classmethod
    def _hub_accepts(cls, repo_id: str) -> str:
        return hub_name(repo_id)


class NormStatsSpec(Strict):
    """What the action chunk looks like when the model sees it."""

    action_space: Literal["delta", "absolute"] = "delta"
    """`delta`: actions minus the current state, grippers excepted (openpi's DeltaActions)."""
    rotation_delta: Literal["composed", "subtracted"] = "composed"
    """The delta of a rotation: `composed` (the rotation that leads from the state to the action) or `subtracted` (number by number, as
    openpi's DeltaActions does, whatever the numbers are)."""
    adapt_to_pi: bool = False
    """ALOHA only: turn joints and grippers into the space pi0's base checkpoints were trained in (openpi's `adapt_to_pi`)."""
    action_horizon: int = Field(default=50, ge=1)
    """Steps in a chunk: 50 for pi0's base checkpoints, 10 for libero and droid ones."""


class ReconvertSpec(Strict):
    """When to convert new recordings without being asked."""

    cron: str
    """Five-field cron expression, in `timezone`."""
    timezone: str = "UTC"
    """IANA name of the time zone the cron is in."""

    @field_validator("cron")
    @classmethod
    def _parses(cls, cron: str) -> str:
        from croniter import croniter

        if len(cron.split()) != 5 or not croniter.is_valid(cron):
            raise ValueError(f"cron {cron!r} does not parse; five fields, e.g. '0 2 * * *' for 02:00 every night")
        return cron

    @field_validator("timezone")
    @classmethod
    def _exists(cls, timezone: str) -> str:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            near = difflib.get_close_matches(timezone, sorted(available_timezones()), n=1)
            raise ValueError(f"timezone {timezone!r} does not exist" + (f"; did you mean {near[0]!r}?" if near else "")) from error
        return timezone
