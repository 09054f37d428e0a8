"""The names and checksums of a release's files, compact: 10,000 chips have a quarter of a million files."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping

__all__ = [
    "MIN_SUMS_LINE_BYTES",
    "SUMS_NAME",
    "Checksums",
    "Names",
    "format_sums",
    "is_digest",
    "parse_sums",
    "sha256",
    "sha256_of",
]

SUMS_NAME = "SHA256SUMS"
"""The seal of a release: written last, and read first."""

MIN_SUMS_LINE_BYTES = 68
"""Of a line of ``SHA256SUMS``: 64 hexadecimal digits, two blanks, a name and a line's end."""

_DIGEST_BYTES = 32
_MOST_WRONG_LINES = 100
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUMS_LINE = re.compile(rf"({_DIGEST.pattern})  ([^/\0][^\0]*)")


class Names(Collection[str]):
    """Names in order, as one text: as Python strings they would take three times the memory.

    Parameters
    ----------
    names
        In any order; a name that is there twice stays so.

    Attributes
    ----------
    given
        Of each name, the place that it was given at; equal names stay in the order they were given
        in.
    """

    def __init__(self, names: Iterable[str]) -> None:
        text, ends = _packed(map(_encoded, names))
        places = range(len(ends) - 1)
        self.given = array("q", sorted(places, key=lambda place: text[ends[place] : ends[place + 1]]))
        self._text, self._ends = _packed(text[ends[place] : ends[place + 1]] for place in self.given)

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        """Yield the names in order."""
        return map(self.at, range(len(self)))

    def __contains__(self, name: object) -> bool:
        """Tell whether a name is there."""
        return isinstance(name, str) and self.place(name) is not None

    def at(self, place: int) -> str:
        """Return the name at a place."""
        return self._at(place).decode(errors="surrogatepass")

    def place(self, name: str) -> int | None:
        """Return where a name is (the last of equal ones), or None."""
        wanted = _encoded(name)
        place = bisect_right(range(len(self)), wanted, key=self._at) - 1
        return place if place >= 0 and self._at(place) == wanted else None

    def beside(self, other: Names) -> Iterator[str]:
        """Yield the names that are not among others."""
        place = 0
        for own in map(self._at, range(len(self))):
            while place < len(other) and other._at(place) < own:
                place += 1
            if place == len(other) or other._at(place) != own:
                yield own.decode(errors="surrogatepass")

    def _at(self, place: int) -> bytes:
        return self._text[self._ends[place] : self._ends[place + 1]]


def _packed(names: Iterable[bytes]) -> tuple[bytes, array[int]]:
    """Return names one after another, and where each ends, from 0 on."""
    text, ends = bytearray(), array("q", [0])
    for name in names:
        text += name
        ends.append(len(text))
    return bytes(text), ends


def _encoded(name: str) -> bytes:
    """Return UTF-8, which sorts as text does; names from a disk or a zip may hold what is no text."""
    return name.encode(errors="surrogatepass")


class Checksums(Mapping[str, str]):
    """SHA-256, hexadecimal, by file name, in the order of names.

    Parameters
    ----------
    pairs
        Name and checksum, in any order; each name once.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        given, self._digests = bytearray(), bytearray()

        def names() -> Iterator[str]:
            for name, digest in pairs:
                given.extend(bytes.fromhex(digest))
                yield name

        self.names = Names(names())
        for place in self.names.given:
            self._digests += _digest(given, place)

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """Yield the names in order."""
        return iter(self.names)

    def __getitem__(self, name: str) -> str:
        """Return a file's checksum."""
        place = self.names.place(name)
        if place is None:
            raise KeyError(name)
        return self.at(place)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield names and checksums in order."""
        return ((name, self.at(place)) for place, name in enumerate(self.names))

    def at(self, place: int) -> str:
        """Return the checksum of the name at a place."""
        return _digest(self._digests, place).hex()


def _digest(digests: bytearray, place: int) -> bytearray:
    return digests[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES]


def is_digest(text: str) -> bool:
    """Tell whether a text is a SHA-256, hexadecimal."""
    return _DIGEST.fullmatch(text) is not None


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(pieces: Iterable[bytes]) -> str:
    """Return the SHA-256 of a file that comes piece by piece, hexadecimal."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def format_sums(sums: Checksums) -> Iterator[bytes]:
    """Yield the lines of ``SHA256SUMS``, as ``sha256sum`` writes them, sorted by name."""
    for name, digest in sums.pairs():
        yield f"{digest}  {name}\n".encode()


def parse_sums(data: bytes) -> tuple[Checksums, list[str]]:
    """Read ``SHA256SUMS``.

    Returns
    -------
    Checksums, list
        What it says; and what is wrong with the file itself.
    """
    wrong = [] if data.endswith(b"\n") else ["ends within a line"]
    numbers = array("q")

    def lines() -> Iterator[tuple[str, str]]:
        for number, line in enumerate(io.BytesIO(data), start=1):
            match = _SUMS_LINE.fullmatch(line.decode("utf-8", errors="replace").removesuffix("\n"))
            if match is None:
                wrong.append(f"line {number} is not a checksum and a name")
                if len(wrong) > _MOST_WRONG_LINES:
                    wrong.append(f"is not read any further than line {number}")
                    return
            elif match[2] == SUMS_NAME:
                wrong.append("names itself")
            else:
                numbers.append(number)
                yield match[2], match[1]

    sums = Checksums(lines())
    names, given = sums.names, sums.names.given
    if any(one > other for one, other in itertools.pairwise(given)):
        wrong.append("names are not in order")
    again = [place for place in range(1, len(names)) if names.at(place) == names.at(place - 1)]
    if again:
        wrong += [f"line {numbers[given[place]]} names {names.at(place)} again" for place in again]
        first = sorted(set(range(len(names))) - set(again))
        sums = Checksums((names.at(place), sums.at(place)) for place in first)
    return sums, wrong
