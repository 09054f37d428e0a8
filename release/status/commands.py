"""The command ``status``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cube.run.command import CommonOptions, config_options, run_verb, verb

if TYPE_CHECKING:
    from cube.config.models import Config


@verb("status", "gelos-lc status -c configs/demo.yaml", "gelos-lc status -c configs/demo.yaml --json")
@config_options
@click.option("--json", "as_json", is_flag=True, help="As JSON, with a row for every area.")
def status_command(common: CommonOptions, *, as_json: bool) -> int:
    """Show how far a version is, by area, and what to type next.

    Reads only, so it may be asked at any moment, from any machine that sees the folder or bucket.
    """

    def show(config: Config) -> int:
        from .standing import print_standing, read_standing

        standing = read_standing(config)
        if as_json:
            print(json.dumps(standing.to_json(common), indent=1))
        else:
            print_standing(standing, common)
        return 0

    return run_verb("status", common, show, keep_log=False)
