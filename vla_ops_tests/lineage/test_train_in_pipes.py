"""What a trainer tells the Dagster step that launched it."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from vla_ops.lineage.training_events import Messages, whole_lines

TELLS = """
import sys
import threading
import time
from pathlib import Path
from dagster_pipes import open_dagster_pipes
from vla_ops.lineage.train_in_pipes import PipesSink
from vla_ops.training.metrics import Metrics

with open_dagster_pipes() as pipes, Metrics(Path(sys.argv[1]), sinks=[PipesSink(pipes)]) as metrics:
    metrics.log(1, {"loss": 0.25, "grad_norm": float("nan")})
    metrics.picture(1, "cameras", b"png")
"""


# Dagster's own Pipes client calls what Dagster has deprecated, and is a preview itself.
@pytest.mark.filterwarnings("ignore")
def test_numbers_and_pictures_are_messages_and_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    messages: list[Any] = []

    # Dagster does not read annotations that are strings.
    @dg.asset(required_resource_keys={"pipes"})
    def checkpoint(context):
        done = context.resources.pipes.run(command=[sys.executable, "-c", TELLS, str(tmp_path)], context=context)
        messages.extend(done.get_custom_messages())
        return dg.MaterializeResult()

    reader = Messages(str(tmp_path / "messages"))
    assert dg.materialize([checkpoint], resources={"pipes": dg.PipesSubprocessClient(message_reader=reader)}).success
    metrics, picture = messages
    assert metrics["vla_ops"] == "metrics"
    assert metrics["metadata"] == {"step": {"raw_value": 1, "type": "int"}, "loss": {"raw_value": 0.25, "type": "float"}}
    assert picture["metadata"]["cameras"]["raw_value"] == "![cameras, step 1](data:image/png;base64,cG5n)"


def test_a_line_that_is_still_being_written_is_waited_for_and_an_unfinished_one_left_out(tmp_path: Path) -> None:
    file, over, found = tmp_path / "messages", threading.Event(), []
    file.touch()
    reading = threading.Thread(target=lambda: found.extend(whole_lines(str(file), over.is_set)))
    reading.start()
    for part in ('{"a": ', '1}\n{"b"', ": 2}\n", '{"killed in the mid'):
        with file.open("a") as stream:
            stream.write(part)
        time.sleep(0.2)
    over.set()
    reading.join(120)
    assert found == ['{"a": 1}\n', '{"b": 2}\n']
