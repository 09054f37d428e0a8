"""GeoTIFFs read by tifffile say what GDAL says of them, and damaged ones have one kind of error."""

from __future__ import annotations

import io
import logging
import random
import struct
import tracemalloc
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import tifffile
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from release.opening.tiff import TiffError, TiffRaster

MEMBERS = (
    "size", "count", "dtype", "block", "transform", "epsg",
    "nodata", "descriptions", "scales", "offsets", "tags",
)  # fmt: skip


def written(dtype: str, count: int, **profile: Any) -> bytes:
    values = np.random.default_rng(5).integers(0, 200, (count, 70, 50)).astype(dtype)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=50,
            height=70,
            count=count,
            dtype=dtype,
            transform=from_origin(399960.0, 4900020.0, 10.0, 20.0),
            **{"crs": "EPSG:32633", "nodata": 0, **profile},
        ) as raster:
            raster.write(values)
            raster.descriptions = [f"B{band:02}" for band in range(count)]
            raster.scales, raster.offsets = (0.0001,) * count, (-0.1,) * count
            raster.update_tags(item="an <item> & its date", datetime="2023-01-01T00:00:00Z")
        return bytes(memory.read())


FILES = {
    "strips": written("uint16", 3),
    "tiles": written("uint16", 4, tiled=True, blockxsize=32, blockysize=16, compress="deflate", predictor=2),
    "floats": written("float32", 2, nodata=np.nan, compress="zstd", predictor=3),
    "by pixel": written("int16", 3, interleave="pixel", compress="lzw", nodata=-32768),
    "a byte": written("uint8", 1, nodata=None, crs="EPSG:3031"),
    "no crs": written("float64", 1, crs=None, nodata=-9999.5),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_gdal_reads(name: str) -> None:
    ours = TiffRaster(FILES[name])
    with MemoryFile(FILES[name]) as memory, memory.open() as gdal:
        assert ours.size == (gdal.width, gdal.height)
        assert (ours.count, ours.dtype, ours.block) == (gdal.count, gdal.dtypes[0], gdal.block_shapes[0])
        assert ours.transform == tuple(gdal.transform)[:6]
        assert ours.epsg == (gdal.crs.to_epsg() if gdal.crs else None)
        np.testing.assert_equal(ours.nodata, gdal.nodata)
        assert (ours.descriptions, ours.scales, ours.offsets) == (
            gdal.descriptions,
            gdal.scales,
            gdal.offsets,
        )
        assert ours.tags == {key: text for key, text in gdal.tags().items() if key != "AREA_OR_POINT"}
        np.testing.assert_array_equal(ours.read(), gdal.read())
        np.testing.assert_array_equal(ours.read([gdal.count]), gdal.read([gdal.count]))


def damaged(seed: int) -> Iterator[bytes]:
    """Yield each file with values of its header and tags overwritten."""
    rng = random.Random(seed)
    for data in FILES.values():
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            tags = int.from_bytes(data[4:8], "little")
            at = rng.choice((rng.randrange(8), rng.randrange(tags, min(tags + 300, len(data) - 1))))
            value = rng.choice((0, 1, 0xFFFF, rng.randrange(1 << 16)))
            changed[at : at + 2] = value.to_bytes(2, "little")
        yield bytes(changed[: rng.choice((len(changed), len(changed), rng.randrange(len(changed))))])


def test_damaged_files_have_one_kind_of_error_of_one_line(caplog: pytest.LogCaptureFixture) -> None:
    refused: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for seed in range(100):
            for data in damaged(seed):
                raster = TiffRaster(data)
                try:
                    said = [getattr(raster, name) for name in MEMBERS]
                    width, height = said[0]
                    if width * height * raster.count < 1 << 20:
                        assert raster.read().shape == (raster.count, height, width)
                except TiffError as error:
                    refused.append(str(error))
    assert 100 < len(refused) < 600
    assert [line for line in refused if not line or "\n" in line] == []
    assert [record for record in caplog.records if record.name == "tifffile"] == []


def test_others_hear_what_tifffile_logs(caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(FILES["strips"])
    tags = int.from_bytes(data[4:8], "little") + 2
    data[tags + 2 : tags + 4] = b"\xff\xff"  # the type of the first, the width
    assert TiffRaster(bytes(data)).size != (50, 70)
    assert caplog.records == []
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        _ = tiff.pages.first
    assert caplog.records != []


def assembled(pixels: bytes, **further: tuple[int, int, int]) -> bytes:
    """Return a TIFF of 16 x 16 bytes in one strip; of further tags: type, count and value."""
    tags = {256: (4, 1, 16), 257: (4, 1, 16), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    tags |= {273: (4, 1, 0), 277: (3, 1, 1), 278: (4, 1, 16), 279: (4, 1, len(pixels))}
    tags |= {int(code.removeprefix("tag")): tag for code, tag in further.items()}
    if 322 in tags:
        tags[324], tags[325] = tags.pop(273), tags.pop(279)
        del tags[278]
    start = 8 + 2 + 12 * len(tags) + 4
    tags[324 if 322 in tags else 273] = (4, 1, start)
    entries = b"".join(struct.pack("<HHII", code, *tag) for code, tag in sorted(tags.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + pixels


def with_a_tag_many_times() -> bytes:
    """Return a file of 200 kB, all of which is the value of each of 50 tags."""
    values = 100_000
    entries = b"".join(struct.pack("<HHII", 273, 3, values, 8 + 2 + 12 * 50 + 4) for _ in range(50))
    return struct.pack("<2sHIH", b"II", 42, 8, 50) + entries + bytes(4) + b"\7\7" * values


BOMBS = {
    "bands": assembled(bytes(256), tag277=(4, 1, 20_000_000)),
    "deep tiles": assembled(
        zlib.compress(bytes(256 << 18), 9),
        tag259=(3, 1, 8),
        tag322=(4, 1, 16),
        tag323=(4, 1, 16),
        tag32998=(4, 1, 1 << 18),
    ),
    "tags": with_a_tag_many_times(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_little_memory(name: str) -> None:
    data, most = BOMBS[name], 0
    tracemalloc.start()
    try:
        with pytest.raises(TiffError):
            _ = [getattr(TiffRaster(data), member) for member in MEMBERS] + [TiffRaster(data).read()]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20 << 20


def with_metadata(items: str = "", nodata: str = "0") -> bytes:
    return with_text(f"<GDALMetadata>{items}</GDALMetadata>", nodata)


def with_text(metadata: str, nodata: str = "0") -> bytes:
    text, buffer = metadata.encode(), io.BytesIO()
    tags = [(42112, 2, len(text) + 1, text, True), (42113, 2, len(nodata) + 1, nodata.encode(), True)]
    tifffile.imwrite(buffer, np.ones((16, 16), "uint8"), metadata=None, software=False, extratags=tags)
    return buffer.getvalue()


def without_a_strip() -> bytes:
    """Return strips one of which has no bytes, so that tifffile takes the next from its place."""
    shape = {"width": 32, "height": 32, "count": 2, "dtype": "uint8", "blockysize": 8, "interleave": "band"}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape) as raster:
            raster.write(np.random.default_rng(5).integers(1, 255, (2, 32, 32), "uint8"))
        data = bytearray(memory.read())
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        counts = tiff.pages.first.tags[279]
    size = {3: 2, 4: 4}[int(counts.dtype)]
    data[counts.valueoffset + size : counts.valueoffset + 2 * size] = bytes(size)
    return bytes(data)


ODD: Mapping[str, bytes] = {
    "predicted and not compressed": assembled(bytes(range(256)), tag317=(3, 1, 2)),
    "of mixed colours": assembled(bytes(range(256)) * 4, tag262=(3, 1, 5), tag277=(3, 1, 4)),
    "planes of a kind that there is not": assembled(bytes(range(256)), tag284=(3, 1, 3)),
    "a strip that is not there": without_a_strip(),
    "another domain": with_metadata('<Item name="scene_ids" domain="X">1</Item>'),
    "roles in capitals": with_metadata('<Item name="SCALE" sample="0" role="SCALE">5</Item>'),
    "comments": with_metadata(
        '<!-- c --><Item name="scene_ids">1<!-- c --></Item>'
        '<!-- <Item name="SCALE" sample="0" role="scale">5</Item> -->'
        '<Item name="OFFSET" sample="0" role="offset">5</Item><!-- c -->'
    ),
    "a scale with a comment": with_metadata('<Item name="SCALE" sample="0" role="scale"><!-- -->5</Item>'),
    "blanks before": with_metadata(
        '<Item name="SCALE" sample="0" role="scale"> 5</Item>'
        '<Item name="D" sample="0" role="description">\n  two words </Item>'
    ),
    "nothing but blanks": with_metadata('<Item name="scene_ids"> </Item>'),
    "another element": with_metadata('<Other name="SCALE" sample="0" role="scale">5</Other>'),
    "no name": with_metadata('<Item sample="0" role="scale">5</Item>'),
    "no items": with_metadata(),
    "a domain of nothing": with_metadata('<Item name="scene_ids" domain="">1</Item>'),
    "a domain of GDAL's own": with_metadata(
        '<Item name="SCALE" sample="0" role="scale" domain="IMAGE_STRUCTURE">5</Item>'
    ),
    "entities": with_metadata('<!DOCTYPE a [<!ENTITY b "c">]><Item name="scene_ids">&b;</Item>'),
    "a band after a blank": with_metadata('<Item name="SCALE" sample=" 0" role="scale">5</Item>'),
    "a band in other digits": with_metadata('<Item name="S" sample="\u0661" role="scale">5</Item>'),
    "a scale of digits apart": with_metadata('<Item name="SCALE" sample="0" role="scale">1_0</Item>'),
    "a description of nothing": with_metadata('<Item name="D" sample="0" role="description"></Item>'),
    "nodata and a word": with_metadata(nodata="0 and more"),
    "nodata of digits apart": with_metadata(nodata="1_0"),
    "negative nodata that is no number": with_metadata(nodata="-nan"),
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_refused_or_read_as_gdal_reads_it(name: str) -> None:
    ours = TiffRaster(ODD[name])
    try:
        said = (ours.nodata, ours.descriptions, ours.scales, ours.offsets, "scene_ids" in ours.tags)
        pixels = ours.read()
    except TiffError:
        return
    with MemoryFile(ODD[name]) as memory, memory.open() as gdal:
        facts = (gdal.nodata, gdal.descriptions, gdal.scales, gdal.offsets, "scene_ids" in gdal.tags())
        assert said == facts
        np.testing.assert_array_equal(pixels, gdal.read())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", ["comments", "blanks before", "no name", "a domain of nothing"])
def test_metadata_that_another_program_wrote_are_not_refused(name: str) -> None:
    ours = TiffRaster(ODD[name])
    with MemoryFile(ODD[name]) as memory, memory.open() as gdal:
        assert (ours.descriptions, ours.scales, ours.offsets) == (
            gdal.descriptions,
            gdal.scales,
            gdal.offsets,
        )
        assert ours.tags.get("scene_ids") == gdal.tags().get("scene_ids")


PIECES = (
    "x", "y ", "  ", "\n", "\r\n", "\t", "\u0001", "\u00e9", "\u00a0", "5", "-1e3", "&lt;", "&amp;",
    "&quot;", "&LT;", "&amp;amp;", "&amp;lt;", "&amp;eacute;", "&#65;", "&#x41;", "&amp;#65;", "&#32;",
    "&amp;#32;", "&#10;", "&#1;", ">", "'", '"', "]]>", "<!-- c -->", "<!---->", "<!-->", "<!--x->y-->",
    "<b>z</b>", "<![CDATA[z]]>", "<?z?>",
)  # fmt: skip


def metadata_text(rng: random.Random) -> str:
    """Return metadata as other programs, and hands, may have written them."""
    one = rng.choice
    values = {
        "name": ("a", "A", "b", "SCALE", " a ", "n&lt;x", "\u00c9", "\u00e9", "a\nb", "a=b", "a:b"),
        "sample": ("0", "1", "00", "2", " 1", "-1", "9", "99999"),
        "role": ("scale", "offset", "description", "Scale", "unittype", "DESCRIPTION"),
        "domain": ("", "X", "IMAGE_STRUCTURE", "xml:Y", "RPC"),
    }

    def attribute(key: str) -> str:
        blank, quote = one((" ", "\n")), one(("'", '"'))
        spelt = one((key, key, key.upper()))
        return f"{blank}{spelt}{one(('=', '=', ' = '))}{quote}{one(values[key])}{quote}"

    def item() -> str:
        keys = [key for key in ("name", "name", "sample", "role", "domain") if rng.random() < 0.5]
        name, attributes = one(["Item"] * 9 + ["item", "Other"]), "".join(map(attribute, keys))
        value = "".join(one(PIECES) for _ in range(one((0, 1, 1, 2, 3))))
        return f"<{name}{attributes}{one(('', ' '))}>{value}</{name}>"

    def beside() -> str:
        return one(("", "\n  ", "\r\n", '<!-- <Item name="z">q</Item> -->', "<!-- & < -->", "t", " "))

    root = one(["GDALMetadata"] * 9 + ["gdalMetadata", "Other"])
    body = "".join(beside() + item() for _ in range(one((1, 1, 2, 3)))) + beside()
    before, after = one(("", "", '<?xml version="1.0"?>', "<!-- c -->\n")), one(("", "", "\n", "<!-- e -->"))
    return f"{before}<{root}>{body}</{root}>{after}"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_whatever_metadata_are_read_say_what_gdal_reads() -> None:
    read = 0
    for seed in range(600):
        data = with_text(metadata_text(random.Random(seed)))
        try:
            ours = TiffRaster(data)
            said = (ours.descriptions, ours.scales, ours.offsets, ours.tags)
        except TiffError:
            continue
        read += 1
        with MemoryFile(data) as memory, memory.open() as gdal:
            beside = ("AREA_OR_POINT", "TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION", "TIFFTAG_RESOLUTIONUNIT")
            tags = {key: text for key, text in gdal.tags().items() if key not in beside}
            assert said == (gdal.descriptions, gdal.scales, gdal.offsets, tags), seed
    assert read > 200


@pytest.mark.parametrize(
    "text",
    [" x", "x ", "  two\n words\r\n", "a & b < c > \"d\" 'e'", "&amp; &#65; &eacute;", "<!-- c -->", ""],
)
def test_a_text_that_gdal_wrote_is_read_as_gdal_reads_it(text: str) -> None:
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=8,
            height=8,
            count=1,
            dtype="uint8",
            crs="EPSG:32633",
            transform=from_origin(399960.0, 4900020.0, 10.0, 10.0),
        ) as raster:
            raster.update_tags(text=text)
            raster.descriptions = (text,)
        data = bytes(memory.read())
    with MemoryFile(data) as memory, memory.open() as gdal:
        assert TiffRaster(data).tags.get("text") == gdal.tags().get("text")
        assert TiffRaster(data).descriptions == gdal.descriptions


def test_no_text_of_metadata_keeps_its_reader_busy() -> None:
    """What a pattern would try in many ways, or an XML parser unfold, is refused at once."""
    size = 200_000
    bomb = (
        '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">'
        + "".join(f'<!ENTITY {chr(99 + n)} "{f"&{chr(98 + n)};" * 10}">' for n in range(12))
        + "]>"
    )
    texts = [
        f'{bomb}<GDALMetadata><Item name="a">&n;</Item></GDALMetadata>',
        "<!---->" * (size // 7) + "x",
        "<!--" * (size // 4),
        "<GDALMetadata>" + "<Item" * (size // 5) + "</GDALMetadata>",
        "<GDALMetadata><Item" + " " * size + "</GDALMetadata>",
        "<GDALMetadata><Item" + ' a = "b"' * (size // 8) + "</GDALMetadata>",
        '<GDALMetadata><Item name="a">' + " " * size + "</GDALMetadata>",
        "<GDALMetadata>" + "</GDALMetadata" + " " * size,
        "<GDALMetadata>" + "</GDALMetadata " * (size // 15),
        '<GDALMetadata><Item name="a">' + "&" * size + "</Item></GDALMetadata>",
    ]
    for text in texts:
        with pytest.raises(TiffError):
            _ = TiffRaster(with_text(text)).tags
