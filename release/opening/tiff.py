"""GeoTIFFs in memory, which may be anybody's: what they say of themselves, and their pixels.

Opening a file through GDAL costs more than unpacking a chip's pixels. Tifffile reads them; of GDAL
comes what a CRS is, once for each spelling of it.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from .faults import first_line

_GEO_KEYS = (34735, 34736, 34737)
"""Tags of the CRS: keys, numbers and texts."""
_PIXEL_SCALE, _TIEPOINT, _TRANSFORMATION = 33550, 33922, 34264
_METADATA, _NODATA = 42112, 42113
"""GDAL's own."""
_TAGS = {*range(254, 348), _PIXEL_SCALE, _TIEPOINT, _TRANSFORMATION, *_GEO_KEYS, _METADATA, _NODATA}
"""Those of TIFF 6 and a GeoTIFF's. What microscopes write beside them leads tifffile elsewhere."""
_MOST_VALUES = 1 << 20
"""Of all tags together; a value takes up to 20 times what it does in the file."""
_MOST_BANDS = 0xFFFF
_VERSIONS = {42: ("u4", "u2", 4), 43: ("u8", "u8", 8)}
"""Of TIFF and BigTIFF: offsets and counts, the number of tags, and where the first offset is."""
_READ = {
    "compression": {1, 5, 8, 32946, 50000},
    "photometric": {0, 1, 2, 3},
    "planarconfig": {1, 2},
    "predictor": {1, 2, 3},
}
"""What tifffile and GDAL read as the same pixels, and what unpacks to no more than it says: none,
LZW, deflate by both its numbers, Zstandard; of numbers that are no mixed colours."""
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|[+-]?inf", re.IGNORECASE)

_COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)
"""None within another: looking for its end again and again would take for ever."""
_BESIDE = r"[\s\0]*"
"""What may stand beside items: blanks, and the NUL that takes a comment's place."""
_METADATA_TEXT = re.compile(
    rf"{_BESIDE}(?:<\?xml[^<>]*\?>{_BESIDE})?<GDALMetadata\s*(?:/>|>(.*)</GDALMetadata\s*>){_BESIDE}",
    re.ASCII | re.DOTALL | re.IGNORECASE,
)
_QUOTED = r"""(?:"[^"<\0]*"|'[^'<\0]*')"""
_ITEM = re.compile(
    rf"<Item((?:\s+[a-z_]+\s*=\s*{_QUOTED})*)\s*(?:/>|>([^<]*)</Item\s*>)", re.ASCII | re.IGNORECASE
)
_ATTRIBUTE = re.compile(rf"([a-z_]+)\s*=\s*({_QUOTED})", re.ASCII | re.IGNORECASE)
_BLANKS = " \t\n\v\f\r"
_REFERENCE = re.compile(
    r"&(?:(lt|gt|amp|quot|apos);|#(x[0-9a-f]{1,6}|[0-9]{1,7});)?", re.ASCII | re.IGNORECASE
)
_REFERRED = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}

_NUMBERS = (
    "imagewidth",
    "imagelength",
    "tilewidth",
    "tilelength",
    "rowsperstrip",
    "samplesperpixel",
    "compression",
)
"""Attributes of a page that are one number each, unless the file is damaged."""

Transform = tuple[float, float, float, float, float, float]
"""As ``Affine`` has it: x of column, of row, and at the corner; y of the same."""


_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
"""What tifffile logs of a damaged file is said once, by the error; its other users hear it."""
tifffile.logger().addFilter(lambda _: not _QUIET.get())


class TiffError(ValueError):
    """A file is no GeoTIFF that can be read."""


@contextlib.contextmanager
def _tiff_errors() -> Iterator[None]:
    """Turn whatever a file makes of its reader into one line."""
    quiet = _QUIET.set(True)
    try:
        yield
    except Exception as error:  # noqa: BLE001  libraries have many for files that are none
        raise TiffError(first_line(error)) from None
    finally:
        _QUIET.reset(quiet)


@dataclass(frozen=True)
class TiffRaster:
    """A GeoTIFF's first image.

    Raises
    ------
    TiffError
        From any of its members, if the file is not one that can be read.
    """

    data: bytes

    @cached_property
    def _page(self) -> tifffile.TiffPage:
        with _tiff_errors():
            _check_tags(self.data)
            page = tifffile.TiffFile(io.BytesIO(self.data), is_scanimage=False).pages.first
        if not isinstance(page, tifffile.TiffPage) or page.dtype is None:
            raise TiffError("it holds no image")
        for name in _NUMBERS:
            value = getattr(page, name)
            if not isinstance(value, int) or value < 0:
                raise TiffError(f"its {name} is {value!r}, not one number")
        if page.samplesperpixel > _MOST_BANDS:
            raise TiffError(f"it has {page.samplesperpixel} bands")
        return page

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self._page.imagewidth, self._page.imagelength

    @property
    def count(self) -> int:
        """Number of bands."""
        return int(self._page.samplesperpixel)

    @property
    def dtype(self) -> str:
        """Of all bands."""
        assert self._page.dtype is not None
        return self._page.dtype.name

    @property
    def block(self) -> tuple[int, int]:
        """Height and width of what is unpacked at once, pixels."""
        page = self._page
        if page.is_tiled:
            return page.tilelength, page.tilewidth
        return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth

    @property
    def transform(self) -> Transform | None:
        """Leads from pixels to the CRS; None where the file has no place, or a rotated one."""
        scale, tie = self._tag(_PIXEL_SCALE), self._tag(_TIEPOINT)
        is_simple = _are_numbers(scale, 3) and _are_numbers(tie, 6) and self._tag(_TRANSFORMATION) is None
        if not is_simple or not self._place.is_area:
            return None
        across, down = float(scale[0]), float(scale[1])
        column, row, _, left, top, _ = map(float, tie)
        return across, 0.0, left - column * across, 0.0, -down, top + row * down

    @property
    def epsg(self) -> int | None:
        """Code of the CRS; None where it has none."""
        return self._place.epsg

    @property
    def nodata(self) -> float | None:
        """What stands for no data; None where nothing does."""
        text = self._tag(_NODATA)
        return None if text is None else _number(str(text).strip("\0 "))

    @property
    def descriptions(self) -> tuple[str | None, ...]:
        """Names of the bands."""
        return tuple(one or None for one in self._metadata.of_bands("description", str, None))

    @property
    def scales(self) -> tuple[float, ...]:
        """What each band's numbers are to be multiplied with."""
        return tuple(self._metadata.of_bands("scale", _number, 1.0))

    @property
    def offsets(self) -> tuple[float, ...]:
        """What is to be added to them then."""
        return tuple(self._metadata.of_bands("offset", _number, 0.0))

    @property
    def tags(self) -> Mapping[str, str]:
        """GDAL's metadata of the file."""
        return self._metadata.tags

    def read(self, indexes: Sequence[int] = ()) -> NDArray[Any]:
        """Return the pixels, ``(band, height, width)``, as stored; of bands from 1, or all.

        Look at :attr:`size`, :attr:`count` and :attr:`block` first: they say what memory it takes.
        """
        page = self._page
        for name, known in _READ.items():
            if (value := getattr(page, name)) not in known:
                raise TiffError(f"its {name} is {value!r}, which is not read")
        if page.compression == 1 and page.predictor != 1:
            raise TiffError("its pixels are predicted, and not compressed")
        width, height = self.size
        with _tiff_errors():
            self._check_segments()
            pixels = page.asarray(maxworkers=1)
            if page.axes == "YXS":
                pixels = np.moveaxis(pixels, -1, 0)
            pixels = pixels.reshape(self.count, height, width)
        chosen = pixels[[index - 1 for index in indexes]] if indexes else pixels
        return np.ascontiguousarray(chosen, chosen.dtype.newbyteorder("="))

    def _check_segments(self) -> None:
        """Refuse a file without all strips or tiles, which readers fill up in different ways."""
        page, end = self._page, len(self.data)
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        is_whole = len(segments) == math.prod(page.chunked)
        if not is_whole or not all(0 < start < start + size <= end for start, size in segments):
            raise TiffError("some of its pixels are not there")

    def _tag(self, code: int) -> Any:
        with _tiff_errors():
            return self._page.tags.valueof(code)

    @cached_property
    def _place(self) -> _Place:
        keys = [self._tag(code) for code in _GEO_KEYS]
        return _place_of(*(one if one is None or isinstance(one, str) else _as_tuple(one) for one in keys))

    @cached_property
    def _metadata(self) -> _Metadata:
        return _Metadata.of(self._tag(_METADATA), self.count)


@dataclass(frozen=True)
class _Metadata:
    """What GDAL says of a file and its bands, in a text of XML.

    Read as GDAL does, which an XML parser does not: no item with a comment within it counts, blanks
    before a value are none of it, and references are followed twice. What GDAL never writes beside
    comments (declarations of entities, other elements, CDATA) is refused.
    """

    tags: Mapping[str, str]
    by_role: Mapping[tuple[str, int], str]
    count: int

    @classmethod
    def of(cls, text: Any, count: int) -> _Metadata:
        tags: dict[bytes, tuple[str, str]] = {}
        by_role: dict[tuple[str, int], str] = {}
        for item, value in () if text is None else _items(str(text).strip("\0")):
            name, band, role = item["name"], item.get("sample"), item.get("role")
            if band is not None and not re.fullmatch("[0-9]{1,5}", band):
                raise TiffError(f"its metadata name a band {band[:20]!r}")
            if band is None and not item.get("domain") and re.search("[=:]", name):
                raise TiffError(
                    f"its metadata have the name {name[:40]!r}, of which GDAL makes a name and a value"
                )
            if band is None and not item.get("domain"):
                tags[name.encode().lower()] = name.rstrip(" \t"), value.lstrip(" \t")
            elif band is not None and role is not None:
                by_role[role.lower(), int(band)] = value
        return cls(dict(tags.values()), by_role, count)

    def of_bands(self, role: str, parse: Callable[[str], Any], otherwise: Any) -> list[Any]:
        found = {band: parse(text) for (one, band), text in self.by_role.items() if one == role}
        return [found.get(band, otherwise) for band in range(self.count)]


def _items(text: str) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the attributes and the value of each item of GDAL's metadata that counts."""
    document = None if "\0" in text else _METADATA_TEXT.fullmatch(_COMMENT.sub("\0", text))
    body = document and (document[1] or "")
    if body is None or "<" in _ITEM.sub("", body):
        raise TiffError("its metadata are not of the form that GDAL writes")
    for found in _ITEM.finditer(body):
        attributes: dict[str, str] = {}
        for key, quoted in _ATTRIBUTE.findall(found[1]):
            attributes.setdefault(key.lower(), _unescape(quoted[1:-1]))
        value = (found[2] or "").lstrip(_BLANKS)
        is_structure = attributes.get("domain", "").upper() == "IMAGE_STRUCTURE"
        if value and "\0" not in value and "name" in attributes and not is_structure:
            yield attributes, _unescape(_unescape(value))  # GDAL escapes what it puts into XML twice


def _unescape(text: str) -> str:
    """Follow references to characters, as GDAL does."""

    def follow(found: re.Match[str]) -> str:
        name, number = found.groups()
        if name:
            return _REFERRED[name.lower()]
        code = 0 if number is None else int(number[1:], 16) if number[0] in "xX" else int(number)
        if not 0 < code < 0x110000 or 0xD800 <= code < 0xE000:
            raise TiffError("its metadata have an & that refers to no character")
        return chr(code)

    return _REFERENCE.sub(follow, text)


@dataclass(frozen=True)
class _Place:
    epsg: int | None
    is_area: bool
    """False where a place is that of a pixel's middle."""


@lru_cache(maxsize=1024)
def _place_of(keys: tuple[float, ...] | None, numbers: tuple[float, ...] | None, texts: str | None) -> _Place:
    """Ask GDAL what the tags of a CRS mean, in a file of one pixel."""
    if keys is None:
        return _Place(None, is_area=True)
    tags: list[tuple[Any, ...]] = [(_GEO_KEYS[0], 3, len(keys), keys, True)]
    if numbers is not None:
        tags.append((_GEO_KEYS[1], 12, len(numbers), numbers, True))
    if texts is not None:
        tags.append((_GEO_KEYS[2], 2, len(texts.encode()) + 1, texts.encode(), True))
    place = [(_PIXEL_SCALE, 12, 3, (1.0, 1.0, 0.0), True), (_TIEPOINT, 12, 6, (0.0,) * 6, True)]
    buffer = io.BytesIO()
    with _tiff_errors():
        pixel = np.zeros((1, 1), np.uint8)
        tifffile.imwrite(buffer, pixel, metadata=None, software=False, extratags=[*place, *tags])
        with MemoryFile(buffer.getvalue()) as memory, memory.open(driver="GTiff") as raster:
            epsg = raster.crs.to_epsg() if raster.crs else None
            return _Place(epsg, is_area=tuple(raster.transform)[:6] == (1, 0, 0, 0, -1, 0))


def _check_tags(data: bytes) -> None:
    """Refuse tags that no GeoTIFF has, that are there twice, or that hold too much."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    version = _VERSIONS.get(int(np.frombuffer(data, f"{order}u2", 1, 2)[0])) if order else None
    if version is None:
        raise TiffError("it is no TIFF")
    word, number, first = version
    start = int(np.frombuffer(data, f"{order}{word}", 1, first)[0])
    count = int(np.frombuffer(data, f"{order}{number}", 1, start)[0])
    entry = np.dtype(
        [("code", f"{order}u2"), ("kind", "V2"), ("values", f"{order}{word}"), ("value", f"V{word[1:]}")]
    )
    entries = np.frombuffer(data, entry, count, start + np.dtype(number).itemsize)
    codes = entries["code"].tolist()
    for code, times in Counter(codes).items():
        if code not in _TAGS or times > 1:
            raise TiffError(f"it has tag {code}" + (" twice" if times > 1 else ", which no GeoTIFF has"))
    if sum(entries["values"].tolist()) > _MOST_VALUES:
        raise TiffError("its tags hold more than an image can need")


def _number(text: str) -> float:
    """Read a number as GDAL does, or not at all."""
    if not _DECIMAL.fullmatch(text):
        raise TiffError(f"its metadata have {text[:20]!r} for a number")
    return float(text)


def _as_tuple(values: Any) -> tuple[float, ...]:
    return tuple(np.atleast_1d(np.asarray(values)).tolist())


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) == count
        and all(isinstance(one, (int, float)) and math.isfinite(one) for one in values)
    )
