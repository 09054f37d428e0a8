"""``gelos-lc``: one command, whose subcommands are imported when they are called."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import NoReturn

import click

COMMANDS = {
    "init": "cube.build.commands:init_command",
    "doctor": "cube.build.commands:doctor_command",
    "plan": "cube.build.commands:plan_command",
    "build": "cube.build.commands:build_command",
    "chip": "chipping.commands:chip_command",
    "release": "release.commands:release_command",
    "run": "release.commands:run_command",
    "status": "release.status.commands:status_command",
    "verify": "release.commands:verify_command",
    "export": "release.export.commands:export_command",
    "compare": "release.compare.commands:compare_command",
    "sweep": "chipping.commands:sweep_command",
    "sheet": "chipping.commands:sheet_command",
    "prune": "cube.build.commands:prune_command",
}
"""Where each subcommand is, as ``module:name``, in the order of the help."""

_TOLD_VERSIONS = ("numpy", "rasterio", "odc-geo", "xarray", "zarr", "dask")


class _Commands(click.Group):
    """Subcommands that are looked up in :data:`COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand of the arguments, or tell which one may have been meant."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            _refuse(ctx, args[0])
        return super().resolve_command(ctx, args)


def _refuse(ctx: click.Context, name: str) -> NoReturn:
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)
    ctx.fail(f"No such command {name!r}. Did you mean {near[0]!r}?")


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:  # noqa: FBT001  click calls it
    if not asked or ctx.resilient_parsing:
        return
    import platform
    from importlib.metadata import version

    import rasterio

    libraries = [f"{name} {version(name)}" for name in _TOLD_VERSIONS]
    click.echo(f"gelos-lc {version('gelos-lc')}, Python {platform.python_version()}")
    click.echo(", ".join([*libraries, f"GDAL {rasterio.__gdal_version__}"]))
    ctx.exit()


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Versions of the program, of Python, and of the libraries that make pixels.",
)
def main() -> None:
    """From areas of interest to a verified dataset of satellite chips.

    Each command takes --help. When a run is cut off, run the same command again: nothing that is
    done is done twice.
    """
