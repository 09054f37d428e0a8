"""What a stranger's release may cost whoever opens or checks it: no more than one of its size should, and one clear line."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_changes import reseal, rewrite_tracker
from release_landscape import VERSION
from test_release_strangers import RASTER, sparse

from release import ReleaseError, chip_arrays, open_release, verify
from release.catalogs.items_table import ITEMS_NAME
from release.opening.checksums import SUMS_NAME
from release.tracker import PARQUET_NAME

pytestmark = pytest.mark.slow  # test_release_strangers.py is of what strangers do for less

ROOT = Path(__file__).resolve().parents[3]
MEMORY_BYTES = 3 << 30
READER = f"""
import json, resource, signal, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES}, {MEMORY_BYTES}))
from release import ReleaseError, open_release, verify
for line in sys.stdin:
    signal.alarm(60)
    path, said = line.rstrip(), "opened"
    try:
        opened = open_release(path)
        for sensor in opened.sensors:
            opened.read(4, sensor)
    except ReleaseError as error:
        said = str(error)
    try:
        faults = list(map(str, verify(path, workers=1)))
    except ReleaseError as error:
        faults = [str(error)]
    print(json.dumps([said, faults]), flush=True)
"""
Outcome = Callable[[Path], tuple[str, list[str]]]


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    """Return what opens and checks a release in a process of little memory: what the one says, and what the other."""
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command, pipe = [sys.executable, "-c", READER], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def of(path: Path) -> tuple[str, list[str]]:
            print(path, file=reader.stdin, flush=True)
            line = reader.stdout.readline()
            assert line, f"the reader died of it: {reader.wait()}"
            said, faults = json.loads(line)
            assert said.isprintable()
            return said, faults

        yield of
        reader.stdin.close()


def nested_wkb(depth: int) -> bytes:
    """Return a geometry within a collection within a collection."""
    return struct.pack("<BII", 1, 7, 1) * depth + struct.pack("<BIdd", 1, 1, 0, 0)


def with_geometry(table: pa.Table, wkb: bytes) -> pa.Table:
    values = table["geometry"].to_pylist()
    values[4] = wkb
    place = table.schema.get_field_index("geometry")
    return table.set_column(place, table.schema.field("geometry"), [values])


def with_column(values: Callable[[int], pa.Array]) -> Callable[[pa.Table], pa.Table]:
    """Return what puts another column in the place of a text."""

    def change(table: pa.Table) -> pa.Table:
        place = next(
            i
            for i, field in enumerate(table.schema)
            if pa.types.is_large_string(field.type) or pa.types.is_string(field.type)
        )
        return table.set_column(place, table.schema.field(place).name, values(len(table)))

    return change


def with_geo(text: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.replace_schema_metadata({b"geo": text.encode()})


def with_crs(table: pa.Table) -> pa.Table:
    geo = json.loads(table.schema.metadata[b"geo"])
    geo["columns"]["geometry"]["crs"] = "nonsense"
    return table.replace_schema_metadata({b"geo": json.dumps(geo).encode()})


def with_another_geometry(table: pa.Table) -> pa.Table:
    geo = json.loads(table.schema.metadata[b"geo"])
    geo["columns"]["color"] = geo["columns"]["geometry"]
    return table.replace_schema_metadata({b"geo": json.dumps(geo).encode()})


def with_text_for_geometry(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("geometry")
    texts = pa.array([nested_wkb(100).hex()] * len(table), pa.large_string())
    return table.set_column(place, "geometry", texts)


def no_text(rows: int) -> pa.Array:
    offsets = pa.array(range(0, 2 * rows + 1, 2), pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), rows, [None, offsets, pa.py_buffer(b"\xff\xfe" * rows)])


def many(value: object, count: int, kind: pa.DataType) -> Callable[[int], pa.Array]:
    """Return what makes lists of one value."""

    def make(rows: int) -> pa.Array:
        inner = pa.repeat(pa.scalar(value, kind), rows * count)
        return pa.ListArray.from_arrays(pa.array(range(0, rows * count + 1, count), pa.int32()), inner)

    return make


TABLES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "a geometry too deep": (
        lambda table: with_geometry(table, nested_wkb(15_000)),
        "135,021 bytes, where 4,096",
    ),
    "a geometry that is none": (lambda table: with_geometry(table, b"\1\3\0"), "ParseException"),
    "lists of numbers": (with_column(many(1, 500_000, pa.int8())), "is list<"),
    "lists of texts": (with_column(many("x" * 20_000, 1000, pa.string())), "is list<"),
    "a short list": (with_column(many(1, 2, pa.int8())), "is list<"),
    "wide values": (
        with_column(lambda rows: pa.array([bytes(2_500_000)] * rows, pa.binary(2_500_000))),
        "is fixed_size_binary[2500000]",
    ),
    "a view": (with_column(lambda rows: pa.array(["x"] * rows, pa.string_view())), "is string_view"),
    "texts that are none": (with_column(no_text), "UTF8"),
    "a geometry that is text": (with_text_for_geometry, "field geometry is large_string"),
    "no geometry named": (lambda table: table.replace_schema_metadata({}), "it is no GeoParquet"),
    "a CRS that is none": (with_crs, "Invalid projection"),
    "two geometries": (with_another_geometry, "its geometries are geometry, color"),
    "metadata of another kind": (with_geo("[1]"), "cannot be read ("),
    "metadata too deep": (with_geo("[" * 100_000), "is not of the kind that it should be"),
}


@pytest.mark.parametrize("which", TABLES)
def test_a_tracker_that_would_drown_or_kill_its_reader(copy: Path, outcome: Outcome, which: str) -> None:
    change, text = TABLES[which]
    path = copy / PARQUET_NAME
    pq.write_table(change(pq.read_table(path)), path)
    assert path.stat().st_size < 1 << 20
    reseal(copy)
    said, faults = outcome(copy)
    assert said.startswith(f"{PARQUET_NAME}: cannot be read (")
    assert text in said
    assert [
        fault for fault in faults if fault.startswith(f"{PARQUET_NAME}: cannot be read (") and text in fault
    ]


def packed_texts(rows: int) -> pa.Array:
    """Lists of one text of 60 kB, 30,000 times in each: 40 GB, in a file of some kilobytes."""
    count = 30_000
    places = pa.array(np.zeros(rows * count, np.int32))
    texts = pa.DictionaryArray.from_arrays(places, pa.array(["x" * 60_000]))
    return pa.ListArray.from_arrays(pa.array(range(0, rows * count + 1, count), pa.int32()), texts)


ITEMS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "a geometry too deep": lambda table: with_geometry(table, nested_wkb(200_000)),
    "lists of texts": with_column(packed_texts),
}


@pytest.mark.parametrize("which", ITEMS)
def test_items_that_would_drown_or_kill_their_reader(copy: Path, outcome: Outcome, which: str) -> None:
    path = copy / ITEMS_NAME
    pq.write_table(ITEMS[which](pq.read_table(path)), path, store_schema=False)
    assert path.stat().st_size < 1 << 22
    reseal(copy)
    said, faults = outcome(copy)
    assert said == "opened"
    assert len(faults) == 1
    assert faults[0].startswith(f"{ITEMS_NAME}: cannot be ")


class Wkb(pa.ExtensionType):  # type: ignore[misc]  # pyarrow has no types
    """What libraries for GeoArrow register, for the whole process, as soon as they are imported."""

    def __init__(self, storage: pa.DataType) -> None:
        super().__init__(storage, "geoarrow.wkb")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Wkb:
        del serialized
        return cls(storage)


@pytest.fixture
def geoarrow() -> Iterator[None]:
    pa.register_extension_type(Wkb(pa.binary()))
    yield
    pa.unregister_extension_type("geoarrow.wkb")


@pytest.mark.usefixtures("geoarrow")
def test_geometries_may_have_a_type_of_their_own(copy: Path) -> None:
    kind = pq.read_schema(copy / ITEMS_NAME).field("geometry").type
    assert isinstance(kind, Wkb)
    assert verify(copy, workers=1) == []
    assert len(open_release(copy)) == len(gpd.read_parquet(copy / PARQUET_NAME))


def test_rows_are_not_bought_by_empty_lines(copy: Path, outcome: Outcome) -> None:
    path = copy / PARQUET_NAME
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table] * 1000), path)
    lines = b"\n" * 1000 * len(table)
    with (copy / SUMS_NAME).open("wb") as file:
        file.write(lines)
        file.truncate(1 << 27)  # of nothing
    said, faults = outcome(copy)
    assert f"{1000 * len(table):,} rows, where " in said
    assert 0 < sum(fault.startswith(f"{SUMS_NAME}: line ") for fault in faults) <= 101
    assert [fault for fault in faults if fault.startswith(f"{SUMS_NAME}: is not read any further than line ")]


@pytest.mark.parametrize("name", ["config.json", SUMS_NAME, PARQUET_NAME, RASTER])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_pipes_and_devices_are_no_files(copy: Path, outcome: Outcome, name: str, kind: str) -> None:
    path = copy / name
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    said, faults = outcome(copy)
    if kind == "a pipe":
        assert f"{name} is missing" in said
        assert [fault for fault in faults if fault.startswith(f"{name}: is missing")]
    else:
        assert f"{name} is a link out of the release" in said
        assert len(faults) == 1
        assert f"{name}: is a link out of the release" in faults[0]


def test_a_hole_in_a_zip_is_not_read(archive: Path, outcome: Outcome, tmp_path: Path) -> None:
    data = archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        start = opened.start_dir
        last = max(opened.infolist(), key=lambda entry: entry.header_offset).filename.rpartition("/")[2]
    path = tmp_path / "holed.zip"
    hole = 3 << 30
    end = data.rindex(b"PK\5\6")
    with path.open("wb") as file:
        file.write(data[:start])
        file.seek(start + hole)
        file.write(
            data[start:end] + data[end : end + 16] + struct.pack("<L", start + hole) + data[end + 20 :]
        )
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
    said, faults = outcome(path)
    assert said == "opened"
    assert faults == ["holed.zip: is not, byte for byte, the zip that its own files make"]
    opened_release = open_release(path)
    assert len(opened_release.read_file(last)) < 1 << 20


@pytest.mark.parametrize(
    ("depth", "text"), [(1200, f"is not named in {SUMS_NAME}"), (2100, "cannot be listed (")]
)
def test_folders_without_end(
    copy: Path, outcome: Outcome, request: pytest.FixtureRequest, depth: int, text: str
) -> None:
    # Python 3.11 cannot remove so deep a folder itself.
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", str(copy / "d")], check=True))
    (copy / "loop").symlink_to("loop")
    at = os.open(copy, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("secret", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    said, faults = outcome(copy)
    assert said == "opened"
    assert len(faults) == 1
    assert text in faults[0]


def test_a_zip_does_not_say_how_large_its_checksums_are(
    archive: Path, outcome: Outcome, tmp_path: Path
) -> None:
    path = tmp_path / "claims.zip"
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        entry = data.index(f"tiny_{VERSION}/{SUMS_NAME}".encode(), opened.start_dir) - 46
    struct.pack_into("<LL", data, entry + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(data)
    said, faults = outcome(path)
    assert f"{SUMS_NAME} holds 4,294,967,280 bytes, more than the " in said
    assert [fault for fault in faults if fault.startswith(f"{SUMS_NAME}: cannot be read from the zip")]


def test_settings_without_end(copy: Path, outcome: Outcome) -> None:
    os.truncate(copy / "config.json", (1 << 32) - 1)
    said, faults = outcome(copy)
    assert "config.json holds 4,294,967,295 bytes, more than the " in said
    assert [fault for fault in faults if fault.startswith("config.json: holds 4,294,967,295 bytes")]


def test_a_place_that_cannot_be_looked_at(outcome: Outcome) -> None:
    said, faults = outcome(Path("/") / ("x" * 300) / "v0.1.zip")
    assert said.endswith(": cannot be listed (File name too long)")
    assert faults == [said]


def leads(field: str, value: object) -> Callable[[gpd.GeoDataFrame], object]:
    def change(table: gpd.GeoDataFrame) -> object:
        if value is None:
            return table.drop(columns=field)
        table.loc[4, field] = value
        return table

    return change


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("split", None, "its fields are not those of a tracker: split"),
        ("s2l2a_paths", None, "its fields are not those of a tracker: s2l2a_paths"),
        ("lulc", "9", "class 9 is not among those kept"),
        ("s2l2a_dates", "x,y", "s2l2a_dates 'x,y' are not one per time range"),
        ("s2l2a_dates", "20230115", "s2l2a_dates '20230115' are not one per time range"),
        ("s2l2a_paths", RASTER, f"s2l2a_paths is '{RASTER}', expected '{RASTER},"),
        ("s2l2a_paths", "a\0b", "s2l2a_paths is 'a"),
        ("s2l2a_paths", ",".join([RASTER] * 1000), "s2l2a_paths is '"),
    ],
)
def test_a_tracker_that_does_not_fit_together_is_not_followed(
    copy: Path, field: str, value: object, text: str
) -> None:
    rewrite_tracker(copy, leads(field, value))
    for use in (
        lambda opened: opened.read(4, "s2l2a"),
        lambda opened: opened.chip(4),
        lambda opened: chip_arrays(opened, 4, ["s2l2a"]),
    ):
        with pytest.raises(ReleaseError) as caught:
            use(open_release(copy))
        assert text in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1100
    assert verify(copy, workers=1)


def test_a_raster_in_blocks_far_larger_than_itself_is_not_unpacked(copy: Path) -> None:
    sparse(copy / RASTER, 30, tiled=True, blockxsize=8192, blockysize=8192)
    with pytest.raises(ReleaseError, match=rf"{RASTER}: is not what config\.json says of it"):
        open_release(copy).read(4, "s2l2a")


def test_a_band_whose_name_is_no_text(copy: Path) -> None:
    data = (copy / RASTER).read_bytes()
    assert b"B02" in data
    (copy / RASTER).write_bytes(data.replace(b"B02", b"\xff\xfe\xfd"))
    with pytest.raises(ReleaseError, match=f"{RASTER}: ") as caught:
        open_release(copy).read(4, "s2l2a")
    assert str(caught.value).isprintable()


def test_what_a_stranger_named_is_shown_as_one_short_line(copy: Path) -> None:
    path = copy / "config.json"
    raw: dict[str, Any] = json.loads(path.read_text())
    raw["layout"]["s2l2a"]["bands"] = ["x\n\x1b[2J" + "y" * 100_000]
    path.write_text(json.dumps(raw))
    with pytest.raises(ReleaseError, match="there is no band") as caught:
        open_release(copy)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1100
