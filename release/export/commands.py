"""The command ``export``."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import click

from cube.errors import GelosError
from cube.run.command import EXIT_USAGE, Severals, terminated_as_interrupted, verb

from .formats import FORMATS


@verb(
    "export",
    "gelos-lc export data/demo/processed/demo --to webdataset",
    "gelos-lc export data/demo/processed/demo --to zarr --sensors s2l2a s1rtc --bands s2l2a=B04,B03,B02",
    "gelos-lc export data/demo/processed/demo --to huggingface --dates first --out /data/hub",
)
@click.argument("release", type=click.Path())
@click.option("--to", required=True, type=click.Choice(list(FORMATS)), help="The form that is wanted.")
@click.option("--out", type=click.Path(), metavar="DIR", help="Default: RELEASE-FORMAT, beside the release.")
@click.option("--sensors", cls=Severals, multiple=True, metavar="KEY", help="Such as s2l2a (default: all).")
@click.option(
    "--bands", cls=Severals, multiple=True, metavar="KEY=B,B", help="Bands of a sensor, in the order wanted."
)
@click.option(
    "--dtype", default="", help="Of all pixels but class codes, such as float32 (default: as stored)."
)
@click.option("--split", "splits", cls=Severals, multiple=True, metavar="NAME", help="Default: all.")
@click.option(
    "--shard-samples", type=click.IntRange(min=1), metavar="N", help="Default: about 128 MB a shard."
)
@click.option(
    "--dates", default="all", metavar="all|first|INDEX", help="Of each sensor; INDEX counts from 0."
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes (default: one per core).")
@click.option("--force", is_flag=True, help="Replace another export that is there.")
def export_command(
    release: str,
    to: str,
    out: str | None,
    sensors: Sequence[str],
    bands: Sequence[str],
    dtype: str,
    splits: Sequence[str],
    shard_samples: int | None,
    dates: str,
    workers: int | None,
    *,
    force: bool,
) -> int:
    """Write a release in the form that a training framework reads.

    RELEASE is a folder or a zip. When a run is cut off, the same command goes on where it was.
    """
    from cube.run.progress import draw_steps

    from .request import ExportRequest
    from .run import export_release

    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL finds, the errors say
    target = out or f"{release.rstrip('/').removesuffix('.zip')}-{to}"
    try:
        asked = ExportRequest(tuple(sensors), _bands(bands), dtype, tuple(splits), shard_samples, dates)
        with terminated_as_interrupted(), draw_steps(bars=True) as progress:
            done = export_release(
                release,
                to,
                target,
                asked,
                workers=workers or os.cpu_count() or 1,
                force=force,
                progress=progress,
            )
    except GelosError as error:
        click.echo(f"error: {error}", err=True)
        return EXIT_USAGE
    samples = ", ".join(f"{count} {split or 'in all'}" for split, count in done.samples.items())
    resumed = f", {done.resumed} of them there before" if done.written and done.resumed else ""
    print(f"{done.folder}: {to}, {samples}, {done.shards} shards{resumed}")
    print(f"SHA256SUMS {done.fingerprint}" + ("" if done.written else " (already there, unchanged)"))
    return 0


def _bands(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    from release.opening.faults import ReleaseError

    found = {}
    for word in words:
        key, equals, names = word.partition("=")
        if not (key and equals and names):
            raise ReleaseError(
                f"--bands {word!r}: expected a sensor and its bands, such as s2l2a=B04,B03,B02"
            )
        found[key] = tuple(names.split(","))
    return found
