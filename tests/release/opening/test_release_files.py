"""Names, checksums and zips: what they hold, and that zips are byte for byte those of Python's zipfile."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import subprocess
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import release.opening.zips
from cube.run.storage import Folder
from release.opening.checksums import SUMS_NAME, Checksums, Names, format_sums, parse_sums, sha256
from release.opening.faults import BadZipError
from release.opening.files import ZipFiles
from release.opening.zips import list_zip, zip_chunks, zip_equals

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


@pytest.mark.parametrize("count", [0, 1, 65_535, 65_536])
def test_a_zip_is_the_one_that_zipfile_writes(count: int) -> None:
    names = [f"{number:06}" for number in range(count)]
    assert b"".join(zip_chunks("root", names, str.encode)) == by_zipfile("root", names, str.encode)


def test_names_that_are_not_ascii() -> None:
    names = ["\N{LATIN SMALL LETTER U WITH DIAERESIS}.tif", "a b.png", SUMS_NAME]
    made = b"".join(zip_chunks("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n", names, str.encode))
    assert made == by_zipfile("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n", names, str.encode)
    with pytest.raises(ValueError, match="too long"):
        list(zip_chunks("root", ["x" * 70_000], str.encode))


@pytest.mark.parametrize("limit", [1, 30, 60, 200, 1000])
def test_zip64_where_sizes_or_offsets_ask_for_it(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(release.opening.zips, "_LIMIT", limit)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    names = [str(size) for size in (0, 20, 400, 7, 1100, 5)]

    def read(name: str) -> bytes:
        return b"x" * int(name) if name != SUMS_NAME else b"sums"

    assert b"".join(zip_chunks("root", names, read)) == by_zipfile("root", names, read)


def test_a_zip_beyond_4_gib_opens_elsewhere(tmp_path: Path) -> None:
    path, gib = tmp_path / "large.zip", bytes(1 << 30)
    names = [SUMS_NAME, *"abcde"]
    with path.open("wb") as file:
        for piece in zip_chunks("root", names, lambda name: gib if name in "abcd" else name.encode()):
            if piece is gib:  # a hole, so that it takes no room
                file.seek(len(piece), io.SEEK_CUR)
            else:
                file.write(piece)
    assert path.stat().st_size > 1 << 32
    with zipfile.ZipFile(path) as opened:
        assert opened.read("root/e") == b"e"
    listed = subprocess.run(
        ["python3", "-m", "zipfile", "-l", str(path)], capture_output=True, text=True, check=True
    )
    assert listed.stdout.count(str(1 << 30)) == 4
    files = ZipFiles(Folder(str(tmp_path)), path.name)
    assert list(files.names()) == sorted(names)
    assert files.read("e") == b"e"


def test_zips_are_compared_to_the_last_byte() -> None:
    made = b"".join(zip_chunks("root", ["a", "b"], str.encode))
    changed = bytearray(made)
    changed[len(made) // 2] ^= 1
    for other in (made[:-1], made + b"x", bytes(changed), b""):
        assert not zip_equals(io.BytesIO(other), zip_chunks("root", ["a", "b"], str.encode))
    assert zip_equals(io.BytesIO(made), zip_chunks("root", ["a", "b"], str.encode))


def listed(data: bytes) -> list[tuple[object, ...]]:
    start, entries = list_zip(io.BytesIO(data))
    found = [tuple(entry) for entry in entries]
    assert start <= len(data)
    return found


def listed_by_zipfile(data: bytes) -> list[tuple[object, ...]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [
            (
                one.filename,
                one.header_offset,
                one.file_size,
                one.CRC,
                not one.compress_type and not one.flag_bits & 1,
            )
            for one in archive.infolist()
        ]


@pytest.mark.parametrize("limit", [1 << 31, 60, 3])
@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_the_list_of_a_zip_is_the_one_that_zipfile_reads(
    monkeypatch: pytest.MonkeyPatch, limit: int, comment: bytes
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("r/SHA256SUMS", b"x" * 70)
        archive.writestr("r/\N{LATIN SMALL LETTER U WITH DIAERESIS}", b"y" * 100, zipfile.ZIP_DEFLATED)
        with archive.open("r/large", "w", force_zip64=True) as file:
            file.write(b"z" * 5)
        archive.writestr("r/empty", b"")
        archive.writestr("r/empty/", b"")
        archive.comment = comment
    data = buffer.getvalue()
    # A name in the encoding of old: its bytes are those of a letter there.
    old = data.replace(b"r/empty", b"r/\x81mpty")
    assert listed(data) == listed_by_zipfile(data)
    assert listed(old) == listed_by_zipfile(old)
    assert listed(b"".join(zip_chunks("r", ["a"], str.encode)))[0][:3] == ("r/SHA256SUMS", 0, 10)


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
            files = ZipFiles(Folder(str(tmp_path)), path.name)
        except BadZipError:
            refused += 1
            continue
        for name in files.names():
            with contextlib.suppress(OSError):
                assert files.read(name).decode() in {*names, SUMS_NAME}
    assert 500 < refused < 1500


@given(st.lists(ANY_TEXT), ANY_TEXT)
def test_names_are_a_sorted_list(texts: list[str], other: str) -> None:
    names = Names(texts)
    assert list(names) == sorted(texts)
    assert len(names) == len(texts)
    for text in [*texts, other]:
        assert (text in names) == (text in texts)
        place = names.place(text)
        assert place is None if text not in texts else sorted(texts)[place] == text  # type: ignore[index]


def test_a_name_that_is_there_twice_is_found_at_its_last_place() -> None:
    assert Names(["b", "a", "b"]).place("b") == 2
    assert Names(["\udcff", "a"]).place("\udcff") == 1  # what Python makes of a file name that is no text


@given(st.dictionaries(ANY_TEXT.filter(lambda text: "\r" not in text and text != SUMS_NAME), st.binary()))
def test_checksums_are_a_mapping_and_a_file(contents: dict[str, bytes]) -> None:
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    sums = Checksums(expected.items())
    assert dict(sums) == expected
    written = b"".join(format_sums(sums))
    assert written == "".join(f"{expected[name]}  {name}\n" for name in sorted(expected)).encode()
    again, wrong = parse_sums(written)
    if written:
        assert (dict(again), wrong) == (expected, [])


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


def test_checksums_take_a_third_of_the_memory_of_a_dict() -> None:
    def pairs() -> Iterator[tuple[str, str]]:
        for number in range(26_000):
            yield f"s2l2a_{number // 26:06}_{20230101 + number % 26}.tif", f"{number:064x}"

    def memory(kind: Callable[[Iterator[tuple[str, str]]], object]) -> tuple[int, int]:
        tracemalloc.start()
        try:
            made = kind(pairs())
            assert made
            return tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    plain, _ = memory(dict)
    held, most = memory(Checksums)
    assert held < 0.4 * plain
    assert most < plain
