"""A folder of a repository on the Hub as a store: the contract, and what is the Hub's own."""

from __future__ import annotations

import pytest

from vla_ops.publishing.hub.store import HubStore
from vla_ops.publishing.stores.base import Store
from vla_ops_tests.publishing.stores.contract import StoreContract
from vla_ops_tests.services.hub import HubServer

URI = "hf://datasets/lab/home/arm"


class TestOnTheHub(StoreContract):
    @pytest.fixture
    def store(self, hub: HubServer) -> Store:
        assert hub.endpoint
        return HubStore(URI)
