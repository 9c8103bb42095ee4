"""What every backend of policies holds to. A test module makes `backend` and `config` and takes these tests in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vla_ops.errors import SchemaMismatchError
from vla_ops.models.config import ModelConfig
from vla_ops.policies.backend import Backend
from vla_ops.policies.real_time import Guide
from vla_ops.policies.transforms import ModelInputs

ROWS_DIFFER = 1e-5


def inputs(config: ModelConfig, rows: int, seed: int = 0) -> ModelInputs:
    random = np.random.default_rng(seed)
    shape = (rows, config.image_size, config.image_size, 3)
    tokens = random.integers(3, config.vocab_size, (rows, config.max_token_len)).astype(np.int32)
    length = random.integers(2, config.max_token_len, (rows, 1))
    shown = {slot: np.full(rows, k < 2) for k, slot in enumerate(config.cameras)}
    return ModelInputs(
        state=random.normal(size=(rows, config.action_dim)).astype(np.float32),
        images={slot: random.integers(0, 256, shape, dtype=np.uint8) * shown[slot][0] for slot in config.cameras},
        image_masks=shown,
        tokens=tokens,
        token_mask=np.arange(config.max_token_len) < length,
    )


def noise(config: ModelConfig, rows: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((rows, config.action_horizon, config.action_dim), np.float32)


def row(given: ModelInputs, k: int) -> ModelInputs:
    at = slice(k, k + 1)
    images = {slot: image[at] for slot, image in given.images.items()}
    masks = {slot: mask[at] for slot, mask in given.image_masks.items()}
    return ModelInputs(given.state[at], images, masks, given.tokens[at], given.token_mask[at])


def guide(config: ModelConfig, *spans: tuple[int, int], seed: int = 5) -> Guide:
    """Overlaps of (delay, length) at random."""
    actions = noise(config, len(spans), seed)
    for row, (_, length) in zip(actions, spans, strict=True):
        row[length:] = 0
    delays, lengths = zip(*spans, strict=True)
    return Guide(actions, delays, lengths)


class BackendContract:
    """`backend` takes 1 and 2 rows, and was made for real-time chunking."""

    def test_actions_are_finite_floats_of_the_noises_shape(self, backend: Backend, config: ModelConfig) -> None:
        drawn = noise(config, 2)
        sampled = backend.sample(inputs(config, 2), drawn)
        assert (sampled.actions.shape, sampled.actions.dtype) == (drawn.shape, np.float32)
        assert np.isfinite(sampled.actions).all()
        assert np.abs(sampled.actions - drawn).max() > 1e-3

    def test_the_same_inputs_and_noise_give_the_same_actions(self, backend: Backend, config: ModelConfig) -> None:
        first, again = (backend.sample(inputs(config, 1), noise(config, 1)).actions for _ in range(2))
        np.testing.assert_array_equal(first, again)

    def test_other_noise_gives_other_actions(self, backend: Backend, config: ModelConfig) -> None:
        first, other = (backend.sample(inputs(config, 1), noise(config, 1, seed)).actions for seed in (0, 1))
        assert np.abs(first - other).max() > 1e-3

    def test_a_row_of_a_batch_is_the_row_alone(self, backend: Backend, config: ModelConfig) -> None:
        both, drawn = inputs(config, 2), noise(config, 2)
        together = backend.sample(both, drawn).actions
        for k in range(2):
            alone = backend.sample(row(both, k), drawn[k : k + 1]).actions[0]
            np.testing.assert_allclose(together[k], alone, atol=ROWS_DIFFER)

    def test_what_a_masked_camera_shows_changes_nothing(self, backend: Backend, config: ModelConfig) -> None:
        given = inputs(config, 1)
        slot = next(slot for slot, mask in given.image_masks.items() if not mask[0])
        white = {**given.images, slot: np.full_like(given.images[slot], 255)}
        first = backend.sample(given, noise(config, 1)).actions
        np.testing.assert_allclose(backend.sample(replace(given, images=white), noise(config, 1)).actions, first, atol=ROWS_DIFFER)

    def test_what_padding_tokens_are_changes_nothing(self, backend: Backend, config: ModelConfig) -> None:
        given = inputs(config, 1)
        other = np.where(given.token_mask, given.tokens, 5).astype(np.int32)
        first = backend.sample(given, noise(config, 1)).actions
        np.testing.assert_allclose(backend.sample(replace(given, tokens=other), noise(config, 1)).actions, first, atol=ROWS_DIFFER)

    def test_the_steps_of_a_delay_come_nearer_to_the_overlap(self, backend: Backend, config: ModelConfig) -> None:
        overlap = guide(config, (2, 2))
        off = [
            [
                np.abs(backend.sample(inputs(config, 1), noise(config, 1, seed), given).actions - overlap.actions)[:, :2].mean()
                for seed in range(6)
            ]
            for given in (overlap, None)
        ]
        assert np.mean(off[0]) < 0.9 * np.mean(off[1]), off

    def test_without_an_overlap_in_a_row_it_is_as_if_there_were_no_guide(self, backend: Backend, config: ModelConfig) -> None:
        both, drawn = inputs(config, 2), noise(config, 2)
        free, guided = (backend.sample(both, drawn, given).actions for given in (None, guide(config, (0, 0), (1, 3))))
        np.testing.assert_allclose(guided[0], free[0], atol=ROWS_DIFFER)
        assert np.abs(guided[1] - free[1]).max() > 0.1

    def test_a_guided_row_of_a_batch_is_the_row_alone(self, backend: Backend, config: ModelConfig) -> None:
        both, drawn, overlaps = inputs(config, 2), noise(config, 2), guide(config, (1, 3), (2, config.action_horizon))
        together = backend.sample(both, drawn, overlaps).actions
        for k in range(2):
            alone = backend.sample(row(both, k), drawn[k : k + 1], overlaps.picked([k])).actions[0]
            np.testing.assert_allclose(together[k], alone, atol=10 * ROWS_DIFFER)

    def test_stages_have_names_and_seconds(self, backend: Backend, config: ModelConfig) -> None:
        seconds = backend.sample(inputs(config, 1), noise(config, 1)).seconds
        assert seconds
        assert all(spent >= 0 for spent in seconds.values())

    def test_rows_that_it_was_not_made_for_are_refused(self, backend: Backend, config: ModelConfig) -> None:
        assert tuple(backend.batch_sizes) == (1, 2)
        with pytest.raises(SchemaMismatchError, match=r"3.*1 or 2"):
            backend.sample(inputs(config, 3), noise(config, 3))

    def test_an_image_of_another_size_is_refused_by_its_slot(self, backend: Backend, config: ModelConfig) -> None:
        given = inputs(config, 1)
        slot = config.cameras[0]
        small = {**given.images, slot: given.images[slot][:, :-1]}
        with pytest.raises(SchemaMismatchError, match=slot):
            backend.sample(replace(given, images=small), noise(config, 1))
