"""The measured semantics of a dataset version as asset checks, one for each field of the YAML's `checks`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import dagster as dg

from vla_ops.datasets.judged import Judged
from vla_ops.episodes.semantics import JUDGES, Verdict, contradictions
from vla_ops.lineage.names import Stage
from vla_ops.lineage.tables import picture, table
from vla_ops.robot import RobotSpec
from vla_ops.spec import ChecksSpec

# How many contradictions are said in full; all of them are in the table.
_SAID = 10


def semantic_check_specs(stage: Stage, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """One check for each field of `checks` that is not ignored; `block` stops what is made from the dataset."""
    levels = {check: getattr(stage.robot.spec.checks, check) for check in JUDGES}
    return [
        dg.AssetCheckSpec(f"measured_{check}", asset=key, blocking=level == "block", description=ChecksSpec.model_fields[check].description)
        for check, level in levels.items()
        if level != "ignore"
    ]


def semantic_checks(stage: Stage, found: Judged) -> Iterator[dg.AssetCheckResult]:
    """What was measured, check by check."""
    for check, verdicts in found.verdicts.items():
        wrong = contradictions(verdicts)
        blocks = getattr(stage.robot.spec.checks, check) == "block"
        yield dg.AssetCheckResult(
            check_name=f"measured_{check}",
            passed=not wrong,
            severity=dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN,
            description=_said(wrong, verdicts),
            metadata=_metadata(verdicts) | ({"picture": picture(found.picture)} if check == "actions" else {}),
        )


def say_contradictions(log: logging.Logger, spec: RobotSpec, found: Judged) -> None:
    """Log every contradiction: whoever has the terminal alone sees no asset check."""
    for level, say in (("warn", log.warning), ("block", log.error)):
        for verdict in found.against(spec, level):
            say(f"MEASURED {verdict.check}: {verdict}")


_COLUMNS = ["subject", "answer", "found", "claimed", "todo"]


def _metadata(verdicts: Sequence[Verdict]) -> dict[str, dg.TableMetadataValue]:
    """The table of verdicts, contradictions first."""
    ordered = sorted(verdicts, key=lambda verdict: verdict.answer != "contradicts")
    return {"verdicts": table([{column: getattr(verdict, column) for column in _COLUMNS} for verdict in ordered], _COLUMNS)}


def _said(wrong: Sequence[Verdict], verdicts: Sequence[Verdict]) -> str:
    if wrong:
        more = f"\nand {len(wrong) - _SAID} more" if len(wrong) > _SAID else ""
        return "\n".join(map(str, wrong[:_SAID])) + more
    unknown = sum(verdict.answer == "cannot tell" for verdict in verdicts)
    return f"nothing in the data contradicts the YAML; {unknown} of {len(verdicts)} cannot be told"
