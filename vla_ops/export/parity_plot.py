"""parity.png: every comparison against its limit, and the largest difference of each joint."""

from __future__ import annotations

from pathlib import Path

from vla_ops.export.parity import ParityReport


def write_plot(target: Path, report: ParityReport) -> None:
    """Draw it. No display and no global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys((joint.how, joint.precision) for joint in report.joints))
    figure = Figure(figsize=(10, 1.6 + 0.28 * len(report.rows) + 2.2 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1 + len(groups), 1, squeeze=False)[:, 0]
    top = panels[0]
    names = [f"{row.what}, {row.precision}" for row in report.rows]
    colors = ["tab:green" if row.passes else "tab:red" for row in report.rows]
    smallest = 1e-9
    top.barh(names, [max(row.ratio, smallest) for row in report.rows], color=colors)
    for k, row in enumerate(report.rows):
        top.plot([row.limit, row.limit], [k - 0.4, k + 0.4], color="black")
    top.set_xscale("log")
    top.invert_yaxis()
    top.set_title(f"difference over size, limit in black; {len(report.places)} observations, {report.origin}", fontsize=8, parse_math=False)
    for panel, (how, precision) in zip(panels[1:], groups, strict=True):
        of = [joint for joint in report.joints if (joint.how, joint.precision) == (how, precision)]
        panel.bar([f"{joint.name} {joint.unit}" for joint in of], [max(joint.error, smallest) for joint in of], color="tab:blue")
        panel.set_yscale("log")
        panel.tick_params(axis="x", labelrotation=60, labelsize=6)
        panel.set_title(f"largest difference of each action in its unit, {how}, {precision}", fontsize=8)
    for panel in panels:
        panel.tick_params(axis="y", labelsize=7)
    figure.savefig(target, format="png", dpi=90)
