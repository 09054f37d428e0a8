"""Run the stand-in as a process of its own: ``python -m cube.testing.service ARCHIVE``.

Prints one line of JSON (url, sas_url, proxy, environment, pid), then serves until its lifetime or a
SIGTERM. ``GET {origin}/stand-in/summary`` and ``/stand-in/requests`` give counts and records,
``POST /stand-in/reset`` forgets them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

from cube.testing.service.faults import Faults, Kind
from cube.testing.service.search import MAX_LIMIT
from cube.testing.service.server import StandIn


def main(arguments: list[str] | None = None) -> None:
    """Serve until the lifetime is over."""
    options = _parser().parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with StandIn(
        options.archive,
        port=options.port,
        latency_s=options.latency,
        faults=_faults(options),
        token_lifetime_s=options.token_lifetime,
        page_cap=options.page_cap,
    ) as service:
        addresses = {
            "url": service.url,
            "sas_url": service.sas_url,
            "proxy": service.proxy,
            "environment": service.environment(),
            "pid": os.getpid(),
        }
        print(json.dumps(addresses), flush=True)
        stop.wait(options.lifetime)


def _faults(options: argparse.Namespace) -> Faults:
    faults = Faults(options.fault_rate, options.fault_seed, max_per_path=options.fault_max_per_path)
    return replace(faults, kinds=dict.fromkeys(options.fault_kinds, 1.0)) if options.fault_kinds else faults


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cube.testing.service", description=__doc__)
    parser.add_argument("archive", type=Path, help="folder with items.json and blobs")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of requests that go wrong")
    parser.add_argument("--fault-seed", type=int, default=0)
    parser.add_argument(
        "--fault-kinds", type=Kind, nargs="+", choices=list(Kind), help="default: all but corrupt"
    )
    parser.add_argument("--fault-max-per-path", type=int, help="default: no limit")
    parser.add_argument("--token-lifetime", type=float, default=3600.0, help="seconds")
    parser.add_argument("--page-cap", type=int, default=MAX_LIMIT, help="most items on a page")
    parser.add_argument("--lifetime", type=float, default=3600.0, help="seconds until it stops by itself")
    return parser


if __name__ == "__main__":
    main()
