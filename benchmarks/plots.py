"""Plots of the samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.contenders import PEERS
from benchmarks.report import STORAGE, total
from benchmarks.stats import middle

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter, StrMethodFormatter

Sample = dict[str, Any]
COLOURS = {"hydrate": "#4c78a8", "read": "#72b7b2", "parse": "#b8b8b8", "append": "#f2a541", "flush": "#e45756"}


def draw(samples: Sequence[Sample], out: Path) -> None:
    """`resume.png`: everybody's resume cycle by size; `phases.png`: where ours and the seeds' go."""
    found = [each for each in samples if each["case"] == "resume" and "failed" not in each]
    if found:
        _resume(found, out / "resume.png")
        _phases(found, out / "phases.png")


def _resume(found: Sequence[Sample], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8.4, 4.2), dpi=110)
    for name in ("threadkeep", "threadkeep + catalog", "seeds", *PEERS):
        mine = [each for each in found if each["contender"] == name]
        sizes = sorted({each["size"] for each in mine})
        if sizes:
            times = [middle([total(each) for each in mine if each["size"] == size]) for size in sizes]
            ours = name == "threadkeep"
            axes.plot(sizes, times, marker="o", label=name, linewidth=2.5 if ours else 1.2, zorder=3 if ours else 2)
    axes.set(xscale="log", yscale="log", xlabel="messages in the thread", ylabel="ms, median")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xticks(sorted({each["size"] for each in found}))
    axes.set_title("Resume a thread, read it, append 20 messages, put it away")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    _save(figure, path)


def _phases(found: Sequence[Sample], path: Path) -> None:
    sizes = sorted({each["size"] for each in found})
    figure, all_axes = plt.subplots(1, len(sizes), figsize=(2.4 * len(sizes), 3.6), dpi=110, squeeze=False)
    for axes, size in zip(all_axes[0], sizes, strict=True):
        for place, name in enumerate(("threadkeep", "seeds")):
            mine = [each for each in found if (each["contender"], each["size"]) == (name, size)]
            bottom = 0.0
            for phase in STORAGE if mine else ():
                height = middle([total(each, (phase,)) for each in mine])
                label = phase if place == 0 and axes is all_axes[0][0] else None
                axes.bar(place, height, bottom=bottom, color=COLOURS[phase], label=label)
                bottom += height
        axes.set_xticks([0, 1], ["ours", "seeds"])
        axes.set_title(f"{size:,}", fontsize=9)
    all_axes[0][0].set_ylabel("ms, median")
    figure.legend(loc="lower center", ncols=4, fontsize=8)
    figure.suptitle("Where the time goes, by messages in the thread", fontsize=10)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
