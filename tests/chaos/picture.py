"""The picture of a run: what was done each second, what went wrong meanwhile, and how soon it was well again."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from tests.chaos.report import broken

GROUPS: Final = {
    "workers": "#3465a4",
    "apps": "#8f5902",
    "hot tier": "#cc0000",
    "broker": "#e07b00",
    "catalog": "#75507b",
    "S3": "#2e8b57",
}
LINES: Final = {"appends": "#1f2d3d", "opens": "#4a90d9", "archived flushes": "#2e8b57"}
AT_ONCE: Final = 0.6
"""Seconds that a fault without a duration is drawn with."""
QUIET: Final = "#8a8f98"
STYLE: Final[Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b0b4ba",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": "#4a4f57",
    "ytick.color": "#4a4f57",
}


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw it, as PNG."""
    with plt.rc_context(STYLE):
        kinds = _kinds(report)
        figure, (work, faults, back) = plt.subplots(
            3,
            1,
            figsize=(12, 6.4 + 0.2 * len(kinds)),
            height_ratios=[3.2, 1.8, 0.22 * len(kinds) + 0.4],
            layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 0.935), h_pad=0.08),
        )
        faults.sharex(work)
        _throughput(work, report)
        _lanes(faults, report)
        _recoveries(back, report, kinds)
        figure.text(0.012, 0.987, _headline(report), ha="left", va="top", fontsize=14, fontweight="bold")
        figure.text(0.012, 0.957, _subline(report), ha="left", va="top", color="#4a4f57")
        _save(figure, path)
        plt.close(figure)


def _save(figure: Figure, path: Path) -> None:
    """In 255 colours, which are plenty for it and a third of the size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)


def _headline(report: dict[str, Any]) -> str:
    faults = f"{len(report['schedule'])} faults in {report['seconds']:.0f} s"
    if report["violations"]:
        return f"{faults}: {broken(len(report['violations']))}"
    messages = report["messages"]["acknowledged"]
    return f"{faults}: all {messages:,} acknowledged messages are where they belong, once"


def _subline(report: dict[str, Any]) -> str:
    return (
        f"{report['threads']} threads; {report['whole_threads_compared']:,} times a whole thread was compared with "
        f"what its apps were told, {report['revisions_looked_at']:,} times an archive's revision with the one before; "
        f"seed {report['seed']}"
    )


# --- what was done --------------------------------------------------------------------------------------------------


def _throughput(axes: Axes, report: dict[str, Any]) -> None:
    for fault in report["schedule"]:
        axes.axvspan(*_span(fault), color=GROUPS[fault["group"]], alpha=0.08, lw=0)
    for name, colour in LINES.items():
        counts = report["per_second"][name]
        axes.plot(range(len(counts)), _smoothed(counts), color=colour, lw=1.5, label=name)
    _settling(axes, report)
    axes.set_title("Work done per second")
    axes.set_ylabel("per second")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, len(report["per_second"]["opens"]))
    axes.grid(axis="y", color="#e6e8eb", lw=0.7)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=len(LINES), frameon=False)
    axes.tick_params(labelbottom=False)


def _smoothed(counts: list[int]) -> list[float]:
    """Each second with its neighbours, so that the eye follows the level and not the seconds' own noise."""
    return [sum(near) / len(near) for at in range(len(counts)) if (near := counts[max(0, at - 1) : at + 2])]


def _settling(axes: Axes, report: dict[str, Any]) -> None:
    end = report["seconds"]
    axes.axvline(end, color=QUIET, lw=1, ls="--")
    axes.annotate("apps stop", (end, 0.97), xycoords=("data", "axes fraction"), ha="right", va="top", rotation=90,
                  color=QUIET, xytext=(-3, 0), textcoords="offset points")  # fmt: skip


# --- what went wrong ------------------------------------------------------------------------------------------------


def _lanes(axes: Axes, report: dict[str, Any]) -> None:
    rows = list(GROUPS)
    for fault in report["schedule"]:
        start, end = _span(fault)
        at = rows.index(fault["group"])
        axes.barh(at, end - start, left=start, height=0.5, color=GROUPS[fault["group"]], alpha=0.55, lw=0)
        axes.plot([start], [at], marker="|", ms=11, mew=1.8, color=GROUPS[fault["group"]])
    axes.set_yticks(range(len(rows)), rows)
    for label, colour in zip(axes.get_yticklabels(), GROUPS.values(), strict=True):
        label.set_color(colour)
        label.set_fontweight("bold")
    axes.invert_yaxis()
    axes.set_title("What went wrong, and for how long")
    axes.set_xlabel("seconds since the first user came")
    axes.grid(axis="x", color="#e6e8eb", lw=0.7)
    axes.set_axisbelow(True)


def _span(fault: dict[str, Any]) -> tuple[float, float]:
    ended = fault["ended"] if fault["ended"] is not None else fault["began"]
    return fault["began"], max(ended, fault["began"] + AT_ONCE)


# --- how soon it was well again -------------------------------------------------------------------------------------


def _kinds(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The faults by kind, in the order of their groups."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for fault in sorted(report["schedule"], key=lambda fault: (list(GROUPS).index(fault["group"]), fault["kind"])):
        if fault["recovered_in"] is not None:
            kinds.setdefault(fault["kind"], []).append(fault)
    return kinds


def _recoveries(axes: Axes, report: dict[str, Any], kinds: dict[str, list[dict[str, Any]]]) -> None:
    for at, faults in enumerate(kinds.values()):
        seconds = [max(fault["recovered_in"], 0.02) for fault in faults]
        colour = GROUPS[faults[0]["group"]]
        axes.plot([min(seconds), max(seconds)], [at, at], color=colour, alpha=0.3, lw=2)
        axes.plot(seconds, [at] * len(seconds), ls="", marker="o", ms=5.5, color=colour, alpha=0.8, mew=0)
    axes.set_xscale("log")
    axes.set_xticks([0.02, 0.1, 0.5, 1, 2, 5, 10, 20], ["20 ms", "0.1 s", "0.5 s", "1 s", "2 s", "5 s", "10 s", "20 s"])
    axes.minorticks_off()
    axes.set_yticks(range(len(kinds)), [f"{kind}  → {_works(faults)}" for kind, faults in kinds.items()])
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.set_title("From the fault to the next success of the work that it held up  (one dot a fault, log scale)")
    axes.grid(axis="x", color="#e6e8eb", lw=0.7)
    axes.set_axisbelow(True)


def _works(faults: Iterable[dict[str, Any]]) -> str:
    return ", ".join(sorted({fault["work"].partition(" of ")[0] for fault in faults}))
