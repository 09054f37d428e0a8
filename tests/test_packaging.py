"""What surrounds the program says the same as the program: container, compose, conda, hooks, citation, locks."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import dask.config
import pytest
import yaml
from click.testing import CliRunner
from distributed.cli.dask_scheduler import main as scheduler_command
from distributed.cli.dask_worker import main as worker_command
from packaging.requirements import Requirement

from cube.pixels import access
from cube.run import dask_engine

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
CONDA_NAMES = {"dask": "dask-core", "matplotlib": "matplotlib-base"}
"""Packages that conda-forge splits: the part that PyPI's stands for."""
IMPORT_NAMES = {"odc-geo": "odc.geo", "odc-stac": "odc.stac", "pillow": "PIL", "pyyaml": "yaml"}
"""What a package is imported as, where that is not its name."""


@pytest.fixture(scope="module")
def container() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_container", ROOT / "scripts" / "check_container.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stages(container: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = container.parse((ROOT / "Dockerfile").read_text())
    return found


def environment_of(stage: Any) -> dict[str, str]:
    """Return what a stage's ENV lines set."""
    words = " ".join(one.rest for one in stage.instructions if one.word == "ENV").split()
    return dict(word.split("=", 1) for word in words)


def test_every_file_that_the_container_copies_is_there_and_not_ignored(stages: dict[str, Any]) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [
        one.rest.split() for stage in stages.values() for one in stage.instructions if one.word == "COPY"
    ]
    sources = [source for *sources, _ in copies for source in sources]
    assert len(sources) >= 10
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(Path(source).match(pattern) for pattern in let_in), source


def test_the_container_is_pinned_and_runs_as_nobody_of_note(
    container: ModuleType, stages: dict[str, Any]
) -> None:
    for target in ("program", "notebook"):
        whole = container.instructions_of(stages, target)
        users = [one.rest for one in whole if one.word == "USER"]
        assert users[-1:] == ["gelos"]
        installs = [one.rest for one in whole if one.word == "RUN" and "pip install" in one.rest]
        assert all("--require-hashes" in line or "--no-deps" in line for line in installs)


def test_the_containers_gdal_settings_are_the_loaders(stages: dict[str, Any]) -> None:
    settings = {k: v for k, v in environment_of(stages["base"]).items() if k.startswith("GDAL_")}
    assert settings
    for key, value in settings.items():
        assert str(access._GDAL_OPTIONS[key]).replace("True", "YES") == value


def test_the_containers_steps_can_be_followed_without_an_engine(
    container: ModuleType, stages: dict[str, Any]
) -> None:
    """``scripts/check_container.py`` runs them, which needs the network; here the script alone is checked."""
    for target, attempt in container.TRIES.items():
        whole = container.instructions_of(stages, target)
        script = container.script_of(whole, ROOT, attempt)
        subprocess.run(["bash", "-n", "-c", script], check=True)
        for one in whole:
            assert one.word != "RUN" or one.rest.replace('"$UID"', str(container.USER_ID)) in script


def test_the_entry_point_is_the_command(stages: dict[str, Any]) -> None:
    words = {
        one.word: json.loads(one.rest) for one in stages["program"].instructions if one.rest.startswith("[")
    }
    [command], arguments = words["ENTRYPOINT"], words["CMD"]
    module, function = PROJECT["project"]["scripts"][command].split(":")
    done = CliRunner().invoke(getattr(importlib.import_module(module), function), arguments)
    assert done.exit_code == 0
    assert "From areas of interest to a verified dataset" in done.output


def test_compose_has_its_parts_over_the_four_folders(stages: dict[str, Any]) -> None:
    assert set(SERVICES) == {"program", "jupyter", "scheduler", "worker"}
    made = " ".join(one.rest for one in stages["base"].instructions if one.word == "RUN")
    for service in SERVICES.values():
        assert service["build"]["target"] in stages
        targets = [volume["target"] for volume in service["volumes"]]
        assert targets == [f"/app/data/{name}" for name in ("external", "raw", "interim", "processed")]
        assert all(target.removeprefix("/app/") in made for target in targets)
    assert "container_name" not in SERVICES["worker"]
    assert "ports" not in SERVICES["worker"]  # or there could be but one


def test_compose_starts_dask_as_dask_is_started() -> None:
    for service, command in (("scheduler", scheduler_command), ("worker", worker_command)):
        program, verb, *arguments = SERVICES[service]["entrypoint"]
        assert (program, verb) == ("dask", service)
        command.make_context(verb, arguments)
    address = SERVICES["program"]["environment"]["DASK_SCHEDULER_ADDRESS"]
    assert address == SERVICES["worker"]["entrypoint"][2]


def test_composes_workers_are_a_local_clusters() -> None:
    settings = dask.config.collect([], SERVICES["worker"]["environment"])
    assert dask.config.get(dask_engine._NANNY_ENVIRON, config=settings) == dask_engine._WORKER_ENVIRON


def test_conda_names_every_dependency() -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = {str(line).split()[0]: str(line) for line in listed if isinstance(line, str)}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [
        *PROJECT["project"]["dependencies"],
        *extras["s3"],
        *extras["notebook"],
        *extras["dashboard"],
        *PROJECT["dependency-groups"]["build"],
    ]
    for text in wanted:
        one = Requirement(text)
        name = CONDA_NAMES.get(one.name, one.name)
        assert conda[name] == f"{name} {one.specifier}"
    assert conda["python"] == f"python {PROJECT['project']['requires-python']}"


def test_every_dependency_is_imported() -> None:
    imported = {
        f"{name}."
        for package in ("cube", "chipping", "release")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    declared = [Requirement(text).name for text in PROJECT["project"]["dependencies"]]
    wanted = {name: IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared}
    unused = [
        name for name, module in wanted.items() if not any(one.startswith(f"{module}.") for one in imported)
    ]
    assert unused == []


def test_locks_pin_every_dependency_and_agree() -> None:
    def pins(lock: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, version in re.findall(
            r"^([a-z0-9._-]+)(?:\[.*?\])?==(\S+)", (ROOT / lock).read_text(), re.MULTILINE
        ):
            found.setdefault(name, set()).add(version)
        return found

    program, dev, notebook = map(
        pins, ("requirements.lock", "requirements-dev.lock", "requirements-notebook.lock")
    )
    names = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
    assert names <= program.keys()
    assert "jupyterlab" in notebook
    for name, versions in program.items():
        assert notebook[name] == versions  # the second installation moves nothing
        assert dev.get(name, versions) == versions  # nor do demo.sh and test.sh in one environment


def test_hooks_run_what_ci_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    test_script = (ROOT / "scripts" / "test.sh").read_text().replace('"$venv/', ".venv/").replace('"', "")
    for hook in hooks:
        assert hook["language"] == "system"
        assert hook["entry"].replace(" --force-exclude", "") in test_script
    subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml"],
        cwd=ROOT,
        check=True,
    )


def test_the_version_is_one() -> None:
    version = PROJECT["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == version
    assert citation["license"] == PROJECT["project"]["license"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
