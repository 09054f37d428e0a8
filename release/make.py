"""The verb: from chips and their metadata to a release folder and its zip."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cube.config.models import Config
from cube.errors import ConfigError, DiskFullError, StoreError
from cube.run.layout import EXPORTING, Layout
from cube.run.lock import hold, hold_part
from cube.run.named_locks import stop_if_lost
from cube.run.shards import Share
from cube.run.storage import DiskFolder, Folder, check_writable, open_folder
from cube.run.tasks import Engine

from .chosen import ChosenChips, find_chips
from .opening.checksums import SUMS_NAME, sha256
from .opening.faults import UNREADABLE, ReleaseError
from .packing.contents import make_contents
from .packing.shards import ShardedRelease, making_name, zips_of
from .packing.shares import MakeWay, SharedRelease, clear_locks, share_part
from .packing.whole import WholeRelease
from .recipe import RECIPE_NAME, settings_of
from .select import Selection, select
from .sharding import resolve_shard_chips
from .windows import Measures, read_windows

if TYPE_CHECKING:
    from chipping.chip import OnProgress


@dataclass(frozen=True)
class ReleaseSummary:
    """What :func:`make_release` made or found."""

    folder: str
    zip: str
    """Path of the zip, beside which those of shards lie; empty without ``directory.zip_output``."""
    written: bool
    """False where an identical release was there and was left as it is."""
    chips: int
    before: Mapping[int, int]
    """Chips per class before balancing."""
    after: Mapping[int, int]
    """Chips per class."""
    splits: Mapping[str, int]
    """Chips per split; empty without splits."""
    funnel: tuple[tuple[str, int], ...]
    """Windows that are not in the release, by reason."""
    warnings: tuple[str, ...]
    fingerprint: str
    """SHA-256 of SHA256SUMS: equal for equal releases."""


def make_release(
    config: Config,
    *,
    force: bool = False,
    progress: OnProgress | None = None,
    engine: Engine | None = None,
    shard: Share | None = None,
) -> ReleaseSummary:
    """Clean, balance, split, number, describe and package the chips of a dataset version.

    Parameters
    ----------
    config
        The dataset version; its chips are in ``{directory.working}/{version}``.
    force
        Replace a different release of this version.
    progress
        Called with what is being done, how many are done, and how many there are.
    engine
        What writes the shards of a release that has some; by default what ``compute`` names.
    shard
        The share of the shards that this run begins with, where several runs make one release: it
        is there once they have ended.

    Returns
    -------
    ReleaseSummary
        What is in ``{directory.output}/{version}`` now.

    Raises
    ------
    ReleaseError
        If the chips do not allow the release, or a different one of this version is there; with
        `shard`, if it has no shards.
    BusyError
        If another run works in the output folder; with `shard`, one that is no run of such a share.
    """
    working = Layout.of(config).root
    output = open_folder(config.directory.output, config.directory.storage_options)
    selection, windows = _choose_chips(working, config)
    table = selection.chips
    shard_chips = resolve_shard_chips(config.release.shard_chips, len(table))
    sharded = shard_chips is not None
    if shard is not None and not sharded:
        raise ReleaseError(
            f"{config.dataset.name} {config.dataset.version}: {len(table)} chips are a release without shards, "
            "which one run makes; leave --shard out, or set release.shard_chips"
        )
    # Those of a shard are found, and seen to be whole, by who writes it.
    chips = (ChosenChips if sharded else find_chips)(working / "chips", table, config)
    output.make()
    with _held(output, config, shard):
        contents = make_contents(working, windows, selection, chips, shard_chips)
        made = ShardedRelease(contents, engine, progress) if sharded else WholeRelease.of(contents, progress)

        def make_way(found: bool | None) -> None:  # noqa: FBT001  of three answers
            _make_way(output, made, config, found, force=force)

        if shard is not None and isinstance(made, ShardedRelease):
            version, stem = config.dataset.version, _stem(config)
            written = SharedRelease(made, output, shard, version, stem, force=force).write(make_way)
        else:
            written = _write_release(output, made, make_way, config, force=force)
        fingerprint = sha256((output / config.dataset.version).read(SUMS_NAME))
    return _summary(output, selection, config, fingerprint, written=written)


def check_output(config: Config, *, force: bool) -> None:
    """See that the output can be written to, and that this version is free or of these settings.

    Raises
    ------
    ConfigError
        If the folder or bucket cannot be written to; names the key.
    ReleaseError
        If a release of other settings has this version, or files that are no release, or zips that
        no new ones replace, and `force` does not.
    """
    output = open_folder(config.directory.output, config.directory.storage_options)
    try:
        output.make()
        check_writable(output)
    except DiskFullError:
        raise
    except StoreError as error:
        raise ConfigError(f"{config.path}: directory.output: {error}") from None
    release = output / config.dataset.version
    if release.exists(SUMS_NAME):
        difference = _difference(release, config)
        if difference and not force:
            raise ReleaseError(
                f"{release}: a release of other settings has this version ({difference}); set another "
                "dataset.version, or give --force to replace it"
            )
    elif release.names() and not (output / making_name(config.dataset.version)).names():
        _check_is_release(release, lambda _: False)
    elif not config.directory.zip_output and not force:
        _refuse_left_zips(output, _own_zips(output, config))


def _difference(release: Folder, config: Config) -> str:
    """Return the first setting in which a release differs from a config; empty if none does."""
    try:
        there = json.loads(release.read(RECIPE_NAME))["config"]
        found = dict(_flat(there))
    except (FileNotFoundError, *UNREADABLE):
        return f"its {RECIPE_NAME} cannot be read"
    wanted = dict(_flat(json.loads(json.dumps(settings_of(config)))))
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            return f"{key} is {found.get(key)} there, {wanted.get(key)} here"
    return ""


def _flat(settings: Any, prefix: str = "") -> Any:
    """Yield dotted keys and values of nested settings."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _choose_chips(working: Folder, config: Config) -> tuple[Selection, Measures]:
    """Choose the chips, and keep of every window what report and browser show."""
    if working.exists(EXPORTING):
        raise ReleaseError(f"{working}: its chips are unfinished; run gelos-lc chip to the end")
    windows = read_windows(working / "windows", config.table)
    return select(windows.chips, config, windows.rejected), windows.measures


@contextlib.contextmanager
def _held(output: Folder, config: Config, shard: Share | None) -> Iterator[None]:
    """Hold the output folder, or a share of a release in it; what killed runs left is swept."""

    def clear_up() -> None:
        output.sweep()
        clear_locks(output)

    if shard is not None:
        with hold_part(output, share_part(config.dataset.version, shard), if_alone=clear_up):
            yield
        return
    with hold(output):
        clear_up()
        yield


def _make_way(
    output: Folder,
    made: WholeRelease | ShardedRelease,
    config: Config,
    found: bool | None,  # noqa: FBT001  of three answers
    *,
    force: bool,
) -> None:
    """See that what is in the release's place may be replaced, and remove the zips of it.

    Where no release is there (`found` is None), zips may be all that is left of one: those that are
    made anew are compared then, and the others would be taken for a part of this release.
    """
    stop_if_lost()
    release, zips = output / config.dataset.version, _own_zips(output, config)
    if found is None:
        own = made.zip_names(_stem(config)) if config.directory.zip_output else []
        zips = [name for name in zips if name not in own]
        if not force:
            _refuse_left_zips(output, zips)
    else:
        _check_is_release(release, made.may_hold)
        if not force and release.exists(SUMS_NAME):
            raise ReleaseError(
                f"{release}: a different release of this version is there; give --force to replace it"
            )
    for archive in zips:
        output.remove(archive)


def _refuse_left_zips(output: Folder, zips: Sequence[str]) -> None:
    if zips:
        others = f", and {len(zips) - 1} more" if len(zips) > 1 else ""
        raise ReleaseError(
            f"{output}/{zips[0]}{others}: left of another release of this version; move it away, or give "
            "--force to remove it"
        )


def _own_zips(output: Folder, config: Config) -> list[str]:
    """Name the zips of this version; another version may be called as a shard of it is."""
    name, version = config.dataset.name, config.dataset.version
    versions = {zipped: zipped[len(name) + 1 : -len(".zip")] for zipped in zips_of(output, _stem(config))}
    return [
        zipped
        for zipped, other in versions.items()
        if other == version or not (output / other).exists(SUMS_NAME)
    ]


def _write_release(
    output: Folder,
    made: WholeRelease | ShardedRelease,
    make_way: MakeWay,
    config: Config,
    *,
    force: bool,
) -> bool:
    """Write folder and zips where they are not there yet; tell whether one was written."""
    version = config.dataset.version
    found = made.is_there(output / version)
    if not found:
        make_way(found)
        made.write(output, version)
    output.remove_folder(making_name(version))
    zip_written = config.directory.zip_output and made.write_zips(output, version, _stem(config), force=force)
    return not found or zip_written


def _check_is_release(release: Folder, may_hold: Callable[[str], bool]) -> None:
    """Refuse to take a folder for a release, and so to replace it, that is none.

    An object store may hold files of this release without SHA256SUMS: those of a run that was
    stopped.
    """
    if release.exists(SUMS_NAME) or (
        not isinstance(release, DiskFolder) and all(map(may_hold, release.files()))
    ):
        return
    raise ReleaseError(
        f"{release}: holds files, but no {SUMS_NAME}: it is no release, and is not replaced; "
        "move it away, or set another directory.output"
    )


def _stem(config: Config) -> str:
    return f"{config.dataset.name}_{config.dataset.version}"


def _summary(
    output: Folder, selection: Selection, config: Config, fingerprint: str, *, written: bool
) -> ReleaseSummary:
    splits = selection.chips["split"].value_counts().to_dict() if config.release.splits else {}
    return ReleaseSummary(
        folder=str(output / config.dataset.version),
        zip=f"{output}/{_stem(config)}.zip" if config.directory.zip_output else "",
        written=written,
        chips=len(selection.chips),
        before=selection.before,
        after=selection.after,
        splits={str(name): int(count) for name, count in sorted(splits.items())},
        funnel=selection.funnel,
        warnings=selection.warnings,
        fingerprint=fingerprint,
    )
