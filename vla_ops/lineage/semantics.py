"""The measured semantics of a dataset version as asset checks, one for each field of the YAML's `checks`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dagster as dg

from vla_ops.episodes.semantics import JUDGES, Seen, Verdict, contradictions, judge
from vla_ops.episodes.store import Episode
from vla_ops.lineage.episodes import table
from vla_ops.lineage.names import Stage
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


def semantic_checks(stage: Stage, episodes: Sequence[Episode]) -> Iterator[dg.AssetCheckResult]:
    """Measure, and hold it against the YAML."""
    for check, verdicts in judge(Seen.of(episodes), stage.robot.spec).items():
        wrong = contradictions(verdicts)
        blocks = getattr(stage.robot.spec.checks, check) == "block"
        yield dg.AssetCheckResult(
            check_name=f"measured_{check}",
            passed=not wrong,
            severity=dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN,
            description=_said(wrong, verdicts),
            metadata={"verdicts": table([_row(v) for v in [*wrong, *(v for v in verdicts if v not in wrong)]], _COLUMNS)},
        )


_COLUMNS = ["subject", "answer", "found", "claimed", "todo"]


def _row(verdict: Verdict) -> dict[str, str]:
    return {column: getattr(verdict, column) for column in _COLUMNS}


def _said(wrong: Sequence[Verdict], verdicts: Sequence[Verdict]) -> str:
    if wrong:
        more = f"\nand {len(wrong) - _SAID} more" if len(wrong) > _SAID else ""
        return "\n".join(map(str, wrong[:_SAID])) + more
    unknown = sum(verdict.answer == "cannot tell" for verdict in verdicts)
    return f"nothing in the data contradicts the YAML; {unknown} of {len(verdicts)} cannot be told"
