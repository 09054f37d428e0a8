"""Run benchmarks, all or those named, and fill docs/benchmarks.md with what they print.

    python scripts/benchmarks.py                      # every tests/benchmarks/bench_*.py
    python scripts/benchmarks.py reads chips          # some; the others' sections stay as they are
    python scripts/benchmarks.py memory -- --side-km 15.36    # one, with arguments of its own

A benchmark prints, when it is called with ``--json``, one line of JSON per table on stdout:
``{"title": ..., "columns": [...], "rows": [[...], ...], "note": ...}``. Other lines are passed on.
What a table has under ``"figures"``, numbers of which less is better, is kept by the program's
version in docs/benchmarks.json, and drawn in docs/benchmarks.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "tests" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"
HISTORY = PAGE.with_suffix(".json")
PICTURE = PAGE.with_suffix(".svg")
_TABLE = '{"title":'
LIBRARIES = ("dask", "numpy", "rasterio", "xarray", "zarr")


def main(argv: list[str] | None = None) -> int:
    """Run, and write the page after each: one that breaks off costs the others nothing."""
    names = sorted(path.stem.removeprefix("bench_") for path in BENCHMARKS.glob("bench_*.py"))
    given = list(sys.argv[1:] if argv is None else argv)
    own = given[given.index("--") + 1 :] if "--" in given else []
    parser = argparse.ArgumentParser(description="Run benchmarks and fill docs/benchmarks.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")
    wanted = parser.parse_args(given[: given.index("--")] if own else given).names or names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(names)}")
    if own and len(wanted) != 1:
        parser.error("arguments after -- are for one benchmark; name it")
    failed = [name for name in wanted if not fill(name, own)]
    if failed:
        print(f"error: {', '.join(failed)} failed; the page keeps what it had of them", file=sys.stderr)
    return 3 if failed else 0


def fill(name: str, arguments: list[str]) -> bool:
    """Run one benchmark and put its tables into the page; False if it failed."""
    print(f"bench_{name} ...", flush=True)
    command = [sys.executable, str(BENCHMARKS / f"bench_{name}.py"), "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    tables = [json.loads(line) for line in lines if line.startswith(_TABLE)]
    for line in lines:
        if not line.startswith(_TABLE):
            print(line)
    if done.returncode or not tables:
        return False
    PAGE.write_text(
        put(PAGE.read_text(encoding="utf-8"), name, section(name, tables, arguments)), encoding="utf-8"
    )
    figures = {label: value for table in tables for label, value in table.get("figures", {}).items()}
    history = json.loads(HISTORY.read_text()) if HISTORY.exists() else {}
    history = keep(history, name, figures)
    HISTORY.write_text(json.dumps(history, indent=1) + "\n")
    draw(history, PICTURE)
    return True


def keep(history: dict[str, Any], name: str, figures: dict[str, float]) -> dict[str, Any]:
    """Put a benchmark's figures among those of this version, by version and benchmark."""
    mine = version("gelos-lc")
    found = {**history, mine: {**history.get(mine, {}), name: {k: round(v, 3) for k, v in figures.items()}}}
    return found if figures else history


def draw(history: dict[str, Any], path: Path) -> None:
    """Draw each figure from version to version, a panel per benchmark."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = sorted({name for of_version in history.values() for name in of_version})
    if not names:
        return
    figure = Figure((9, 3.2 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), squeeze=False)[:, 0]
    versions = list(history)
    for panel, name in zip(panels, names, strict=True):
        for label in sorted({label for one in history.values() for label in one.get(name, {})}):
            values = [history[one].get(name, {}).get(label) for one in versions]
            panel.plot(versions, values, marker="o", label=label)
        panel.set(title=name, ylim=(0, None))
        panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", frameon=False)
        panel.grid(axis="y", alpha=0.3)
    with rc_context({"svg.hashsalt": "benchmarks", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def section(name: str, tables: list[dict[str, Any]], arguments: list[str]) -> str:
    """Return the Markdown of one benchmark: where it ran, and its tables."""
    command = " ".join(["python", f"tests/benchmarks/bench_{name}.py", *arguments])
    parts = [f"`{command}` on {machine()}"]
    for table in tables:
        header, rule = table["columns"], ["---"] * len(table["columns"])
        rows = ["| " + " | ".join(map(str, row)) + " |" for row in (header, rule, *table["rows"])]
        parts += [f"## {table['title']}", "\n".join(rows)]
        if table["note"]:
            parts.append(table["note"])
    title, *rest = parts[1:]
    return "\n\n".join([title, *rest, parts[0] + "."])


def put(page: str, name: str, text: str) -> str:
    """Replace a benchmark's section in the page, or add one at its end."""
    begin, end = f"<!-- bench_{name} -->", f"<!-- end of bench_{name} -->"
    whole = f"{begin}\n\n{text}\n\n{end}"
    if begin in page:
        return re.sub(
            f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: whole, page, count=1, flags=re.DOTALL
        )
    return f"{page.rstrip()}\n\n{whole}\n"


def machine() -> str:
    """Say what the figures depend on; no host name."""
    cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"{cpu()}, {cores} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}, {libraries}"


def cpu() -> str:
    """Return the processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
