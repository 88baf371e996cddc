"""Build deploy/Dockerfile without Docker: each stage in an empty directory that serves as its root.

All stages are built in the same place and moved away when done, so that absolute paths stay valid in the files that
a later stage copies. Only the instructions that our file uses are supported; any other is an error.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.project.tree import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"

_FLAG = re.compile(r"^--(\S+?)=(\S+)\s+")
_ABSOLUTE = re.compile(r"(?<![\w./-])/(?=(?:opt|src|wheels|var|root)\b)")


@dataclass
class Image:
    """The result of the last stage: its root directory, and the configuration of the container."""

    root: Path
    build: Path
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0"
    port: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def instructions() -> list[tuple[str, str]]:
    """Return every instruction as its keyword and arguments, with lines joined and comments removed."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [
        (keyword, " ".join(rest.split())) for keyword, rest in (line.split(maxsplit=1) for line in whole.splitlines())
    ]


def build(directory: Path) -> Image:
    """Execute all instructions under ``directory``, with a Python from this machine instead of the base image's."""
    image = Image(directory / "root", directory / "stages")
    image.build.mkdir()
    stage = ""
    for keyword, rest in instructions():
        if keyword == "FROM":
            if stage:
                (directory / "root").rename(image.build / stage)
            stage = rest.partition(" AS ")[2] or "last"
            (directory / "root").mkdir()
            image.workdir = "/"
            image.environment = {"PATH": f"{base_python().parent}:{os.environ['PATH']}"}
        else:
            INSTRUCTIONS[keyword](image, rest)
    return image


def base_python() -> Path:
    """Return the Python that replaces the base image's: the system's if there is one, otherwise ours."""
    for python in (Path("/usr/local/bin/python3"), Path("/usr/bin/python3")):
        check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
        if python.exists() and subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0:
            return python
    return Path(sys.executable)


def rebase_paths(image: Image, text: str) -> str:
    """Replace absolute paths in the image with their locations on this machine."""
    return _ABSOLUTE.sub(f"{image.root}/", text)


def image_path(image: Image, path: str) -> Path:
    """Return the location on this machine of a path in the image; relative paths start at its working directory."""
    return image.root / str(Path(image.workdir, path)).lstrip("/")


def _run(image: Image, rest: str) -> None:
    while flag := _FLAG.match(rest):
        rest = rest[flag.end() :]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        ["/bin/sh", "-ec", rebase_paths(image, rest)],
        cwd=image_path(image, "."),
        env=environment | image.environment,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, f"RUN {rest}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def _copy(image: Image, rest: str) -> None:
    flag = _FLAG.match(rest)
    *sources, target = rest[flag.end() :].split() if flag else rest.split()
    for source in sources:
        destination = image_path(image, target)
        if flag:
            found = image.build / flag[2] / source.lstrip("/")
            shutil.copytree(found, destination, symlinks=True)
        elif source == ".":
            _copy_context(destination)
        else:
            assert source in context_entries(), f"COPY {source}, but .dockerignore excludes it"
            shutil.copy(ROOT / source, destination / source if target.endswith("/") else destination)


def context_entries() -> list[str]:
    """Return the top-level names that .dockerignore includes."""
    return [line[1:] for line in _ignore_lines() if line.startswith("!")]


def _copy_context(destination: Path) -> None:
    lines = _ignore_lines()
    assert lines[0] == "*", ".dockerignore must exclude everything that it does not name"
    leave = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]

    def left_out(_folder: str, names: list[str]) -> list[str]:
        return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in leave)]

    for name in context_entries():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, destination / name, ignore=left_out)
        else:
            shutil.copy(source, destination / name)


def _ignore_lines() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _workdir(image: Image, rest: str) -> None:
    image.workdir = rest
    image_path(image, ".").mkdir(parents=True, exist_ok=True)


def _env(image: Image, rest: str) -> None:
    for name, value in _pairs(rest).items():
        image.environment[name] = rebase_paths(image, value).replace("$PATH", image.environment["PATH"])


def _health(image: Image, rest: str) -> None:
    while flag := _FLAG.match(rest):
        rest = rest[flag.end() :]
    image.health = json.loads(rest.removeprefix("CMD "))


def _pairs(rest: str) -> dict[str, str]:
    found = re.findall(r'([\w.]+)=("[^"]*"|\S+)', rest)
    return {name: value.strip('"') for name, value in found}


INSTRUCTIONS: dict[str, Callable[[Image, str], object]] = {
    "RUN": _run,
    "COPY": _copy,
    "WORKDIR": _workdir,
    "ENV": _env,
    "ARG": lambda _image, _rest: None,
    "LABEL": lambda image, rest: image.labels.update(_pairs(rest)),
    "USER": lambda image, rest: setattr(image, "user", rest),
    "EXPOSE": lambda image, rest: setattr(image, "port", int(rest)),
    "HEALTHCHECK": _health,
    "ENTRYPOINT": lambda image, rest: setattr(image, "entrypoint", json.loads(rest)),
    "CMD": lambda image, rest: setattr(image, "command", json.loads(rest)),
}
"""The function that implements each instruction."""
