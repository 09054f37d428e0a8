"""Names, checksums and zips: what they hold, and that zips are byte for byte those of Python's zipfile."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import random
import struct
import subprocess
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import geopandas as gpd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import Point

from cube.run.storage import open_folder
from release.opening import zips
from release.opening.checksums import SUMS_NAME, format_sums, parse_sums, sha256
from release.opening.faults import BadZipError
from release.opening.files import ZipFiles
from release.opening.table import read_parquet
from release.opening.zips import zip_chunks, zip_equals

ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="/\0\n"), min_size=1, max_size=20)


def by_zipfile(root: str, names: list[str], read: Callable[[str], bytes]) -> bytes:
    """The zip that Python's own module writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in [SUMS_NAME, *(name for name in names if name != SUMS_NAME)]:
            entry = zipfile.ZipInfo(f"{root}/{name}", (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, read(name))
    return buffer.getvalue()


@pytest.mark.parametrize("count", [0, 1, pytest.param(65_535, marks=pytest.mark.slow), 65_536])
def test_a_zip_is_the_one_that_zipfile_writes(count: int) -> None:
    names = [f"{number:06}" for number in range(count)]
    assert b"".join(zip_chunks("root", names, str.encode)) == by_zipfile("root", names, str.encode)


def test_names_that_are_not_ascii() -> None:
    names = ["\N{LATIN SMALL LETTER U WITH DIAERESIS}.tif", "a b.png", SUMS_NAME]
    made = b"".join(zip_chunks("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n", names, str.encode))
    assert made == by_zipfile("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n", names, str.encode)
    with pytest.raises((ValueError, struct.error)):
        list(zip_chunks("root", ["x" * 70_000], str.encode))


@pytest.mark.parametrize("limit", [1, 30, 60, 200, 1000])
def test_zip64_where_sizes_or_offsets_ask_for_it(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    names = [str(size) for size in (0, 20, 400, 7, 1100, 5)]

    def read(name: str) -> bytes:
        return b"x" * int(name) if name != SUMS_NAME else b"sums"

    assert b"".join(zip_chunks("root", names, read)) == by_zipfile("root", names, read)
    monkeypatch.setattr(zips, "_PIECE_BYTES", 64)
    in_pieces = zip_chunks("root", names, read, lambda name: io.BytesIO(read(name)) if name != "20" else None)
    assert b"".join(in_pieces) == by_zipfile("root", names, read)


@pytest.mark.slow
def test_a_zip_beyond_4_gib_opens_elsewhere(tmp_path: Path) -> None:
    path, gib = tmp_path / "large.zip", bytes(1 << 30)
    names = [SUMS_NAME, *"abcde"]
    with path.open("wb") as file:
        for piece in zip_chunks("root", names, lambda name: gib if name in "abcd" else name.encode()):
            hole = max(0, len(piece) - 2000)  # so that it takes no room
            file.write(piece[:1000])
            file.seek(hole, io.SEEK_CUR)
            file.write(piece[1000 + hole :])
    assert path.stat().st_size > 1 << 32
    with zipfile.ZipFile(path) as opened:
        assert opened.read("root/e") == b"e"
    listed = subprocess.run(
        ["python3", "-m", "zipfile", "-l", str(path)], capture_output=True, text=True, check=True
    )
    assert listed.stdout.count(str(1 << 30)) == 4
    files = ZipFiles(open_folder(str(tmp_path)), path.name)
    assert list(files.names()) == sorted(names)
    assert files.read("e") == b"e"


def test_zips_are_compared_to_the_last_byte() -> None:
    made = b"".join(zip_chunks("root", ["a", "b"], str.encode))
    changed = bytearray(made)
    changed[len(made) // 2] ^= 1
    for other in (made[:-1], made + b"x", bytes(changed), b""):
        assert not zip_equals(io.BytesIO(other), zip_chunks("root", ["a", "b"], str.encode))
    assert zip_equals(io.BytesIO(made), zip_chunks("root", ["a", "b"], str.encode))


@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_zips_that_others_made_are_read(tmp_path: Path, comment: bytes) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("r/SHA256SUMS", b"x" * 70)
        archive.writestr("r/\N{LATIN SMALL LETTER U WITH DIAERESIS}", b"y" * 100, zipfile.ZIP_DEFLATED)
        with archive.open("r/large", "w", force_zip64=True) as file:
            file.write(b"z" * 5)
        archive.writestr("r/empty", b"")
        archive.writestr("r/again", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("r/again", b"2")
        archive.comment = comment
    files = ZipFiles(open_folder(str(tmp_path)), path.name)
    umlaut = "\N{LATIN SMALL LETTER U WITH DIAERESIS}"
    assert files.names() == ["SHA256SUMS", "again", "again", "empty", "large", umlaut]
    assert [files.read(name) for name in ("empty", "large", "again")] == [b"", b"z" * 5, b"2"]
    with pytest.raises(OSError, match="is compressed or encrypted"):
        files.read(umlaut)
    with pytest.raises(FileNotFoundError):
        files.read("nowhere")


def test_an_opened_zip_serves_threads_forks_and_pickles(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(200)]
    (tmp_path / "many.zip").write_bytes(b"".join(zip_chunks("root", names, lambda name: name.encode() * 999)))
    files = ZipFiles(open_folder(str(tmp_path)), "many.zip")
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda name: files.read(name) == name.encode() * 999, names * 5))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(files.read, names) == [name.encode() * 999 for name in names]


def test_a_zip_that_is_cut_or_damaged_is_no_accident(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(20)]
    whole = b"".join(zip_chunks("root", names, str.encode))
    rng = random.Random(0)
    path = tmp_path / "damaged.zip"
    refused = 0
    for trial in range(1500):
        data = bytearray(whole[: rng.randrange(len(whole))] if trial % 3 == 0 else whole)
        for _ in range(rng.randrange(4) if trial % 3 else 0):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 255, rng.randrange(256)])
        path.write_bytes(data)
        try:
            files = ZipFiles(open_folder(str(tmp_path)), path.name)
        except BadZipError:
            refused += 1
            continue
        for name in files.names():
            with contextlib.suppress(OSError):
                assert files.read(name).decode() in {*names, SUMS_NAME}
    assert 500 < refused < 1500


@given(st.dictionaries(ANY_TEXT.filter(lambda text: "\r" not in text and text != SUMS_NAME), st.binary()))
def test_checksums_are_a_mapping_and_a_file(contents: dict[str, bytes]) -> None:
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    written = format_sums(expected)
    assert written == "".join(f"{expected[name]}  {name}\n" for name in sorted(expected)).encode()
    again, wrong = parse_sums(written)
    if written:
        assert (again, wrong) == (expected, [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[::-1], "names are not in order"),
        (lambda lines: [*lines, lines[-1]], "line 4 names c again"),
        (lambda lines: [*lines, f"{sha256(b'')}  {SUMS_NAME}\n"], "names itself"),
        (lambda lines: [lines[0], "what\n", *lines[1:]], "line 2 is not a checksum and a name"),
        (
            lambda lines: [lines[0], lines[1].replace("  ", "  /"), lines[2]],
            "line 2 is not a checksum and a name",
        ),
        (lambda lines: [*lines[:2], lines[2][:-1]], "ends within a line"),
    ],
)
def test_what_is_wrong_with_a_file_of_checksums(change: Callable[[list[str]], list[str]], said: str) -> None:
    lines = [f"{sha256(name.encode())}  {name}\n" for name in "abc"]
    sums, wrong = parse_sums("".join(change(lines)).encode())
    assert said in wrong
    assert set(sums) <= set("abc")
    assert all(sums[name] == sha256(name.encode()) for name in sums)


class Lists(pa.ExtensionType):  # type: ignore[misc]  # pyarrow has no types
    """A type that some library registers, whose values are lists."""

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.int64()), "a.list")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Lists:
        del storage, serialized
        return cls()


@pytest.mark.parametrize("name", ["geometry", "purity"])
@pytest.mark.parametrize("registered", [True, False])
def test_a_type_over_lists_is_judged_by_what_it_holds(name: str, *, registered: bool) -> None:
    """Whether a library has registered the type in this process or not."""
    table = gpd.GeoDataFrame({"purity": [1.0]}, geometry=[Point(0, 0)], crs=4326).to_arrow()
    plain = pa.table(table)
    values = pa.ExtensionArray.from_storage(Lists(), pa.array([[1]], pa.list_(pa.int64())))
    metadata = {b"geo": json.dumps({"columns": {"geometry": {}}})}
    odd = plain.set_column(plain.column_names.index(name), pa.field(name, Lists()), values)
    buffer = io.BytesIO()
    pq.write_table(odd.replace_schema_metadata(metadata), buffer)
    if registered:
        pa.register_extension_type(Lists())
    try:
        with pytest.raises(ValueError, match=rf"^field {name} is (extension<a\.list|list<)"):
            read_parquet(buffer.getvalue(), 10)
    finally:
        if registered:
            pa.unregister_extension_type("a.list")
