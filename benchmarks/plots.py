"""Draw the plots of the docs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "benchmarks"  # the same rows create the same file
matplotlib.rcParams["svg.fonttype"] = "none"

Rows = Mapping[str, Mapping[str, Any]]


def draw(rows: Rows, place: Path) -> None:
    """Draw all plots for which these rows contain data."""
    for name, plot in PLOTS.items():
        figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
        try:
            plot(rows, axes)
            figure.savefig(place / f"benchmark-{name}.svg", metadata={"Date": None})
        except KeyError:
            continue  # the group did not run
        finally:
            pyplot.close(figure)


def _details(rows: Rows, key: str) -> Mapping[str, Any]:
    details: Mapping[str, Any] = rows[key]["details"]
    if rows[key]["ratio"] is None:
        raise KeyError(key)
    return details


def _saves(rows: Rows, axes: Any) -> None:
    sizes = _details(rows, "saves.large")["by size"]
    for name, label in (("plain", "FileSystemStorage and INSERT"), ("queued", "QueuedStorage")):
        axes.plot(list(sizes), [size[name] for size in sizes.values()], "o-", label=label)
    axes.set(title="save() by file size, SQLite", ylabel="ms", yscale="log")
    axes.legend()


def _looks(rows: Rows, axes: Any) -> None:
    local = _details(rows, "looks.local")
    bars = {
        "FileSystemStorage": local["url alone, µs"],
        "local, cache": local["queued, µs"],
        "local, no cache": local["without a cache, µs"],
    }
    for alias, cache in (("domain", "default"), ("signed", "default"), ("signed", "redis")):
        details = rows[f"looks.transferred.{alias}.{cache}"]["details"]
        if "queued, µs" in details:
            where = {"default": "in process", "redis": "Redis"}[cache]
            bars[f"{alias}, {where}"] = details["queued, µs"]
    axes.barh(list(bars), list(bars.values()))
    axes.set(title="url() of one file", xlabel="µs")
    axes.invert_yaxis()


def _page(rows: Rows, axes: Any) -> None:
    bars: dict[str, float] = {}
    for cache, label in (("none", "no cache"), ("default", "in process"), ("redis", "Redis")):
        details = rows[f"looks.page.{cache}"]["details"]
        for name in ("urls()", "url() of each"):
            if f"{name}, ms" in details:
                bars[f"{name}, {label}"] = details[f"{name}, ms"]
        if cache == "none":
            bars = {"S3Storage.url() of each": details["remote, ms"], **bars}
    axes.barh(list(bars), list(bars.values()))
    axes.set(title="A page with 100 transferred files, signed URLs", xlabel="ms")
    axes.invert_yaxis()


def _memory(rows: Rows, axes: Any) -> None:
    reading = _details(rows, "reading.memory")["MiB"]
    sending = _details(rows, "workers.large.memory")["MiB"]
    bars = {
        **{f"read back, {name}": value for name, value in reading.items()},
        **{f"sent, {name}": value for name, value in sending.items()},
    }
    drawn = axes.barh(list(bars), list(bars.values()))
    axes.bar_label(drawn, fmt="%.0f", padding=3)
    axes.set(title="Memory growth of a process for 1 GB", xlabel="MiB")
    axes.margins(x=0.1)
    axes.invert_yaxis()


CARRIERS = {
    "plain": "the worker without obstore",
    "fast": "the worker",
    "put_object": "boto3's put_object",
    "rclone": "rclone copy",
    "s5cmd": "s5cmd cp",
}


def _concurrency(unit: str, title: str) -> Callable[[Rows, Any], None]:
    def plot(rows: Rows, axes: Any) -> None:
        series = _details(rows, "workers.boto3.32")["by concurrency"][unit]
        for name, label in CARRIERS.items():
            points = {width: rates[name] for width, rates in series.items() if name in rates}
            style = "o-" if label.startswith("the worker") else "o--"
            axes.plot([int(width) for width in points], list(points.values()), style, label=label)
        axes.set(title=title, xlabel="threads", ylabel=unit, xscale="log")
        ticks = [int(width) for width in series]
        axes.set_xticks(ticks, labels=map(str, ticks))
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    return plot


def _passes(field: str, label: str) -> Callable[[Rows, Any], None]:
    def plot(rows: Rows, axes: Any) -> None:
        for database in ("SQLite", "PostgreSQL"):
            for name in ("sweep", "status"):
                series = rows[f"passes.{name}.{database}"]["details"][field]
                sizes = [max(int(size), 1) for size in series]
                axes.plot(sizes, list(series.values()), "o-", label=f"{name}, {database}")
        axes.set(title="Duration of sweep and status", xlabel=label, ylabel="ms", xscale="log")
        axes.legend()

    return plot


PLOTS: dict[str, Callable[[Rows, Any], None]] = {
    "saves": _saves,
    "looks": _looks,
    "page": _page,
    "files": _concurrency("files/s", "10 KB files uploaded to S3"),
    "bytes": _concurrency("MB/s", "1 MB files uploaded to S3"),
    "memory": _memory,
    "growth": _passes("by files, ms", "files, 1,000 of them due"),
    "pending": _passes("by due files, ms", "due files"),
}
