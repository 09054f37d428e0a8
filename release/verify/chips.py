"""Check one chip's files against the checksums, the tracker's row and the recipe."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chipping.geotiff import RasterSettings
from cube.config.sensors import CLASS_NAMES, BandKind
from cube.windows.landcover import pixels_needed
from release.opening.checksums import SUMS_NAME, sha256
from release.opening.faults import Fault
from release.opening.limits import MOST_BYTES
from release.opening.tiff import TiffError, TiffRaster
from release.recipe import RasterSpec, Recipe

from .alignment import Alignment, Edges, edges, surface
from .masks import mask_problems
from .processes import WatchedFiles

SUM_DIFFERS = f"its sha256 is not the one in {SUMS_NAME}"
_DIGEST_BYTES = 16
"""Size of the digest by which equal images are found."""
HEADER_BYTES = 1 << 20
"""Room for a file's header and tags beside its pixels."""
_MIN_ALIGNED_PX = 16
_MAX_ALIGNED_PX = 1024
"""Larger images would take too much memory at once."""
_MAY_BE_LEVEL = {"Water", "Flooded vegetation", "Snow/ice"}
"""Classes of places where a height model may be flattened."""
_NEVER_FLAT = {BandKind.REFLECTANCE, BandKind.BACKSCATTER}
"""Kinds of which no two images are equal; heights and classes of two places may be."""


@dataclass(frozen=True, slots=True)
class ChipTask:
    """The files of one chip with their checksums, and its row of the tracker, if it has one."""

    files: tuple[tuple[str, str], ...]
    row: Mapping[str, Any] | None
    is_aligned: bool
    """True where its images are to be correlated with one another."""


@dataclass
class Findings:
    """What is wrong with some chips, and how their images lie upon one another."""

    faults: list[Fault] = field(default_factory=list)
    alignments: dict[tuple[str, int], Alignment] = field(default_factory=dict)
    images: list[tuple[bytes, str]] = field(default_factory=list)
    """Digests of sensor and pixels, each with the file that holds them."""

    def merge(self, other: Findings) -> None:
        """Add what was found in other chips."""
        self.faults.extend(other.faults)
        self.images.extend(other.images)
        for key, alignment in other.alignments.items():
            self.alignments.setdefault(key, Alignment()).merge(alignment)


def check_chips(files: WatchedFiles, tasks: Sequence[ChipTask], recipe: Recipe | None) -> Findings:
    """Check the files of some chips.

    Without a recipe that is to be believed, they are only compared with their checksums.
    """
    findings = Findings()
    with np.errstate(all="ignore"):
        for task in tasks:
            findings.merge(_check_chip(task, files, recipe))
    return findings


def _check_chip(task: ChipTask, files: WatchedFiles, recipe: Recipe | None) -> Findings:
    findings = Findings()
    spectra: dict[tuple[str, int], Edges] = {}
    digests: set[bytes] = set()
    classes = {int(task.row["lulc"])} if task.row is not None else set[int]()
    for name, expected in sorted(task.files, key=_classes_first):
        what = None if recipe is None or task.row is None else _ChipFile.of(name, task.row, recipe)
        try:
            data = files.read(name, MOST_BYTES if what is None else what.most_bytes)
        except OSError as error:
            findings.faults.append(Fault(name, str(error)))
            continue
        wrong = [SUM_DIFFERS] if sha256(data) != expected else []
        if what is not None and task.row is not None and recipe is not None:
            found, values = _file_problems(name, data, what, task.row, recipe, classes)
            wrong += found
            if values is not None and not wrong:
                kinds = _band_kinds(what.sensor, recipe)
                if what.sensor == "lulc":
                    classes.update(np.unique(values).tolist())
                if kinds <= _NEVER_FLAT:
                    # Day after day.
                    may_repeat = CLASS_NAMES[int(task.row["lulc"])] in _MAY_BE_LEVEL
                    digest = _image_digest(what.sensor, values)
                    if not (may_repeat and digest in digests):
                        findings.images.append((digest, name))
                    digests.add(digest)
                if task.is_aligned and _can_be_aligned(values, kinds, recipe):
                    size = recipe.rasters["s2l2a"].size_px
                    spectra[what.sensor, what.index] = edges(_in_decibels_if_radar(values, kinds), size)
        if wrong:
            findings.faults.append(Fault(name, "; ".join(wrong)))
    _add_alignments(spectra, findings)
    return findings


def _classes_first(file: tuple[str, str]) -> tuple[bool, str]:
    """Sort a chip's land cover before what is judged by it."""
    return not file[0].startswith("lulc_"), file[0]


def _image_digest(sensor: str, values: NDArray[Any]) -> bytes:
    """Return a digest of pixels, another one for another sensor."""
    key = sensor.encode()[: hashlib.blake2b.MAX_KEY_SIZE]
    return hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=_DIGEST_BYTES, key=key).digest()


@dataclass(frozen=True, slots=True)
class _ChipFile:
    """What a chip's raster or picture shows, by its name."""

    sensor: str
    index: int
    """Of the time range; 0 for a layer without dates."""
    spec: RasterSpec

    @classmethod
    def of(cls, name: str, row: Mapping[str, Any], recipe: Recipe) -> _ChipFile | None:
        """Read a file's name; None where the tracker's row knows no such file."""
        sensor, _, rest = name.partition("_")
        if sensor not in recipe.rasters:
            return None
        dates = [""] if recipe.table[sensor].is_static else row[f"{sensor}_dates"].split(",")
        date = rest.rpartition(".")[0].partition("_")[2]
        return cls(sensor, dates.index(date), recipe.rasters[sensor]) if date in dates else None

    @property
    def most_bytes(self) -> int:
        """Size that neither the raster nor the picture exceeds, however badly it is compressed."""
        return 2 * (self.spec.raster_bytes + 4 * (self.spec.thumbnail_px or 0) ** 2) + HEADER_BYTES


def _file_problems(
    name: str,
    data: bytes,
    what: _ChipFile,
    row: Mapping[str, Any],
    recipe: Recipe,
    classes: Collection[int],
) -> tuple[list[str], NDArray[Any] | None]:
    """Say what is wrong with a file; return a raster's pixels, but for masks, if they are read.

    `classes` are those in all of the chip: it may show a lake beside its sample window.
    """
    if not data:
        return ["is empty"], None
    if name.endswith(".png"):
        return _picture_problems(data, what.spec), None
    raster = TiffRaster(data)
    try:
        wrong = _grid_problems(raster, row, recipe, what.spec)
        wrong += _scaling_problems(raster, recipe.raster_settings(what.sensor))
        wrong += _origin_problems(raster, what, row, recipe)
        if wrong:
            return wrong, None
        values = raster.read()
    except (TiffError, MemoryError):
        return ["is not a raster that can be read"], None
    count = len(recipe.image_bands(what.sensor))
    wrong = _value_problems(values[:count], what, row, recipe, classes)
    wrong += mask_problems(values, what.sensor, what.index, row, recipe)
    return wrong, values[:count]


def _picture_problems(data: bytes, spec: RasterSpec) -> list[str]:
    unreadable = ["is not a picture that can be read"]
    try:
        with warnings.catch_warnings():
            # Its size is looked at next.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
        with picture:
            kind, size = picture.format, picture.size
            if (kind, size) == ("PNG", (spec.thumbnail_px, spec.thumbnail_px)):
                picture.load()
                return []
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError):
        return unreadable
    return [f"is {kind} of {size[0]} x {size[1]} px, expected PNG of {spec.thumbnail_px} px a side"]


def _grid_problems(raster: TiffRaster, row: Mapping[str, Any], recipe: Recipe, spec: RasterSpec) -> list[str]:
    box, step = recipe.bounds(row), spec.resolution
    pairs = {
        "CRS": (raster.epsg, row["epsg"]),
        "size": (raster.size, (spec.size_px, spec.size_px)),
        "place": (raster.transform, (step, 0, box.left, 0, -step, box.top)),
        "bands": (raster.descriptions, spec.bands),
        "dtype": (raster.dtype, spec.dtype),
        "nodata": (_nodata_words(raster.nodata), _nodata_words(spec.nodata)),
    }
    wrong = [
        f"{what} is {found}, expected {wanted}" for what, (found, wanted) in pairs.items() if found != wanted
    ]
    height, width = raster.block
    if not spec.allows_block(height, width):
        wrong.append(f"is stored in blocks of {width} x {height} px, larger than it is")
    return wrong


def _scaling_problems(raster: TiffRaster, settings: RasterSettings) -> Iterator[str]:
    """Compare what readers of physical values go by with the sensor table."""
    pairs = {"scale": (raster.scales, settings.scales), "offset": (raster.offsets, settings.offsets)}
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            yield f"{what} is {_numbers_text(found)}, expected {_numbers_text(wanted)}"


def _numbers_text(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))


def _nodata_words(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _origin_problems(
    raster: TiffRaster, what: _ChipFile, row: Mapping[str, Any], recipe: Recipe
) -> list[str]:
    """Compare a raster's own date and scenes, where it names them, with the tracker's."""
    key, index = what.sensor, what.index
    tags, wrong = raster.tags, []
    scenes = row[f"{key}_scene_ids"].split(",")
    if "scene_ids" in tags and (len(scenes) <= index or tags["scene_ids"] != scenes[index]):
        wrong.append(f"was made from {tags['scene_ids']}, the tracker says {','.join(scenes)}")
    if not recipe.table[key].is_static and "datetime" in tags:
        found, date = tags["datetime"][:10].replace("-", ""), row[f"{key}_dates"].split(",")[index]
        wrong += [f"was acquired on {found}, not on {date}"] if found != date else []
    return wrong


def _value_problems(
    values: NDArray[Any],
    what: _ChipFile,
    row: Mapping[str, Any],
    recipe: Recipe,
    classes: Collection[int],
) -> list[str]:
    key, spec = what.sensor, what.spec
    if key == "lulc":
        return _class_problems(values[0], row, recipe)
    missing = spec.is_nodata(values).any(axis=0)
    wrong = []
    valid_px = missing.size - np.count_nonzero(missing)
    if valid_px < pixels_needed(spec.min_valid[what.index], missing.size):
        wrong.append(f"{missing.mean():.1%} of it has no data")
    kinds = _band_kinds(key, recipe)
    may_be_flat = kinds == {BandKind.CLASSES} or (
        kinds == {BandKind.ELEVATION} and any(CLASS_NAMES.get(code) in _MAY_BE_LEVEL for code in classes)
    )
    seen = values[:, ~missing] if missing.any() else values.reshape(len(values), -1)
    if not may_be_flat and (seen.size == 0 or not (seen != seen[:, :1]).any()):
        value = f"{seen[0, 0]:g}" if seen.size else "no data"
        wrong.append(f"is black or constant ({value})")
    return wrong


def _band_kinds(key: str, recipe: Recipe) -> set[BandKind]:
    """Return what the numbers of a sensor's rasters are, but for masks."""
    return {recipe.table[key].band(name).kind for name in recipe.image_bands(key)}


def _class_problems(codes: NDArray[Any], row: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Measure majority class and purity again, over the sample window.

    Purity is compared in whole pixels, exactly as where chips are chosen
    (:func:`cube.windows.landcover.land_cover_rules`).
    """
    spec, chips = recipe.rasters["lulc"], recipe.chips
    margin, side = chips.margin_m // spec.resolution, chips.sample_size // spec.resolution
    window = codes[margin : margin + side, margin : margin + side]
    counts = Counter(window.ravel().tolist())
    code, most = int(row["lulc"]), max(counts.values())
    purity = counts[code] / window.size
    wrong = []
    if counts[code] < most:
        wrong.append(f"its majority class is {max(counts, key=lambda c: counts[c])}, the tracker says {code}")
    if np.rint(row["purity"] * window.size) != counts[code]:
        wrong.append(f"its purity is {purity:.4f}, the tracker says {row['purity']:.4f}")
    if counts[code] < pixels_needed(chips.min_purity, window.size):
        wrong.append(f"its purity {purity:.4f} is below {chips.min_purity}")
    if forbidden := sorted(set(counts) & set(chips.forbidden)):
        wrong.append(f"holds class {forbidden[0]}, which is forbidden")
    return wrong


def _can_be_aligned(values: NDArray[Any], kinds: set[BandKind], recipe: Recipe) -> bool:
    """Tell whether an image can be laid upon the Sentinel-2 images, pixel on whole pixels."""
    size = recipe.rasters["s2l2a"].size_px if "s2l2a" in recipe.rasters else 0
    is_sized = _MIN_ALIGNED_PX <= size <= _MAX_ALIGNED_PX and size % values.shape[-1] == 0
    return is_sized and BandKind.ELEVATION not in kinds


def _add_alignments(images: Mapping[tuple[str, int], Edges], findings: Findings) -> None:
    """Correlate each image with Sentinel-2's of its time range, and those with the first."""
    for (key, index), image in sorted(images.items(), key=lambda one: one[0]):
        partner = ("s2l2a", 0 if key == "s2l2a" else index)
        if partner == (key, index) or partner not in images:
            continue
        found = surface(images[partner], image)
        if found is not None:
            findings.alignments.setdefault((key, index), Alignment()).add(found)


def _in_decibels_if_radar(values: NDArray[Any], kinds: set[BandKind]) -> NDArray[Any]:
    """Return backscatter as its logarithm, all else as it is."""
    if BandKind.BACKSCATTER not in kinds:
        return values
    return np.asarray(np.log10(np.maximum(values, np.float32(1e-4))))
