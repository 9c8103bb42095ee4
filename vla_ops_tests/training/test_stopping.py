"""The signals that end a training, and whose they are afterwards."""

from __future__ import annotations

import os
import signal

import pytest

from vla_ops.training.stopping import Stopping


def test_a_signal_is_noted_and_a_second_interrupt_interrupts() -> None:
    said: list[str] = []
    with Stopping(said.append) as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stopping.asked, said) == (signal.SIGTERM, ["SIGTERM: stopping after this step, with a checkpoint"])
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_signals_are_whose_they_were_also_when_it_was_entered_within_itself() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Stopping() as stopping:
        with stopping:
            assert signal.getsignal(signal.SIGINT) == stopping._note
        assert signal.getsignal(signal.SIGINT) == stopping._note
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
