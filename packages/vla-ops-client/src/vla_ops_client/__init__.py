"""The robot's side of a policy server.

::

    with PolicyClient("ws://gpu-box:8000") as policy:
        broker = ActionChunkBroker(policy, steps=25)
        action = broker.act({"state": q, "images": {"cam_high": rgb}, "prompt": "fold the towel"})

`RealTimeBroker(policy)` in its place never waits, and its chunks go on from one another (`vla-ops serve --real-time`).
"""

from vla_ops_client.broker import ActionChunkBroker
from vla_ops_client.client import ConnectionLost, PolicyClient, PolicyError
from vla_ops_client.real_time import RealTimeBroker
from vla_ops_client.wire import pack, unpack

__all__ = ["ActionChunkBroker", "ConnectionLost", "PolicyClient", "PolicyError", "RealTimeBroker", "pack", "unpack"]
