"""Read the samples of stored messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).parent

_NAME: Final = re.compile(r"(?P<type>[a-z_]+\.[a-z_]+)-(?P<version>[1-9][0-9]*)")


class Sample(NamedTuple):
    """A stored message. ``type`` is the name of the command or event, ``body`` the parsed JSON."""

    type: str
    version: int
    body: Any

    def __str__(self) -> str:
        return f"{self.type}-{self.version}"


def read_samples(folder: str) -> list[Sample]:
    """Return the samples in a folder, by type and version.

    :raises ValueError: when a file is not named TYPE-VERSION.json.
    """
    samples = []
    for path in (FOLDER / folder).iterdir():
        name = _NAME.fullmatch(path.stem)
        if name is None or path.suffix != ".json":
            raise ValueError(f"{path} is not named TYPE-VERSION.json")
        samples.append(Sample(name["type"], int(name["version"]), json.loads(path.read_text())))
    return sorted(samples, key=lambda sample: (sample.type, sample.version))


def newest(samples: Iterable[Sample]) -> dict[str, Sample]:
    """Return the sample with the highest version for each type."""
    return {sample.type: sample for sample in sorted(samples, key=lambda sample: sample.version)}


COMMANDS: Final = read_samples("commands")
EVENTS: Final = read_samples("events")
