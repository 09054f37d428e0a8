"""Follow the Dockerfile without a container engine: each target in a fresh root of its own.

    sudo python3.13 scripts/check_container.py [notebook program]

A throw-away layer over this machine's files stands in for the base image, with a new virtual
environment of the Python that runs this in place of the image's. COPY, RUN, ENV, WORKDIR and USER
are followed to the letter, and at the end the entry point is tried as the container's user. Needs
Linux and root; nothing of it is left behind.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRIES = {"notebook": "jupyter lab --version", "program": "gelos-lc --help"}
USER_ID = 54321
"""The build argument UID: no number that this machine has given out."""
LAYER = """
mount -t tmpfs none {folder}
mkdir {folder}/upper {folder}/work {folder}/merged
mount -t overlay none -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {folder}/merged
mount -t proc none {folder}/merged/proc
exec chroot {folder}/merged bash -euo pipefail -c {script}
"""


@dataclass(frozen=True)
class Instruction:
    """A line of a Dockerfile, its continuations joined."""

    word: str
    rest: str


@dataclass(frozen=True)
class Stage:
    """From a FROM to the next."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]


def parse(text: str) -> dict[str, Stage]:
    """Return the stages of a Dockerfile, by name."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    stages: list[tuple[str, str, list[Instruction]]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.split()
            stages.append((name, base, []))
        elif word:
            stages[-1][2].append(Instruction(word, " ".join(rest.split())))
    return {name: Stage(name, base, tuple(found)) for name, base, found in stages}


def instructions_of(stages: dict[str, Stage], target: str) -> list[Instruction]:
    """Return all that makes a target, its bases' instructions first."""
    stage = stages[target]
    return [*(instructions_of(stages, stage.base) if stage.base in stages else ()), *stage.instructions]


def script_of(instructions: list[Instruction], context: Path, attempt: str) -> str:
    """Return the shell script that follows the instructions, and then tries the entry point."""
    lines = [f"{shlex.quote(sys.executable)} -m venv /venv", "export PATH=/venv/bin:$PATH"]
    # An image's Python is for every user; this machine's may lie in a home.
    lines += [f"chmod o+x {shlex.quote(str(folder))}" for folder in Path(sys.executable).resolve().parents]
    user = ""
    for one in instructions:
        match one.word:
            case "ARG" | "CMD" | "ENTRYPOINT" | "EXPOSE":
                continue
            case "ENV":
                lines.append(f"export {one.rest}")
            case "WORKDIR":
                lines.append(f"mkdir -p {one.rest} && cd {one.rest}")
            case "COPY":
                *sources, target = one.rest.split()
                lines += [f"cp -r {shlex.quote(str(context / source))} {target}" for source in sources]
            case "USER":
                user = one.rest
            case "RUN":
                assert not user, "RUN lines come before USER"
                command = one.rest.replace('"$UID"', str(USER_ID))  # bash's own UID cannot be set
                lines += [f"echo {shlex.quote('RUN ' + command)}", command]
            case _:
                raise SystemExit(f"error: Dockerfile: {one.word} is not followed here")
    assert user, "the container's user is not root"
    as_user = f"setpriv --reuid={user} --regid={user} --clear-groups env HOME=/home/{user}"
    lines += [f"{as_user} {attempt}", f"{as_user} touch data/interim/written data/processed/written"]
    return "\n".join(lines)


def check(target: str, instructions: list[Instruction]) -> bool:
    """Follow one target in a layer of its own; True if all went well."""
    with tempfile.TemporaryDirectory() as folder:
        script = script_of(instructions, ROOT, TRIES[target])
        layer = LAYER.format(folder=shlex.quote(folder), script=shlex.quote(script))
        return subprocess.run(["unshare", "--mount", "bash", "-euc", layer], check=False).returncode == 0


def main() -> int:
    """Follow the targets that are named, or all."""
    stages = parse((ROOT / "Dockerfile").read_text())
    targets = sys.argv[1:] or list(TRIES)
    if os.geteuid() != 0:
        raise SystemExit("error: needs root, for a file system of its own")
    outcome = {target: check(target, instructions_of(stages, target)) for target in targets}
    print(json.dumps(outcome))
    return 0 if all(outcome.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
