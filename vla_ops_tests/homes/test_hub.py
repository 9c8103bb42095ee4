"""A home in a repository on the Hub: the contract, how many commits it takes, machines that are killed, and a Hub that refuses."""

from __future__ import annotations

import pytest

from vla_ops.publishing.hub.store import HubStore
from vla_ops.publishing.stores.base import Store
from vla_ops_tests.homes.contract import HomeContract
from vla_ops_tests.services.hub import HubServer


class TestOnTheHub(HomeContract):
    @pytest.fixture
    def store(self, hub: HubServer) -> Store:
        assert hub.endpoint
        return HubStore("hf://datasets/lab/home/arm")
