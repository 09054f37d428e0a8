"""The README holds what the program holds."""

from __future__ import annotations

from pathlib import Path

from cube.reference import config_table

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_table_of_config_keys_is_the_schemas() -> None:
    start = README.index("<!-- config keys: made by python -m cube.reference -->")
    table = README[start : README.index("<!-- end of config keys -->")].split("\n", 1)[1].strip()
    assert table == config_table()


def test_files_that_are_named_exist() -> None:
    root = Path(__file__).parents[1]
    for name in ("cube/scenes.py", "cube/grid.py", "cube/loader.py", "cube/items.py", "cube/signing.py"):
        assert f"`{name}`" in README
        assert (root / name).is_file()
