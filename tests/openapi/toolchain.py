"""The linters and generators, installed with pinned versions into a folder of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

_HERE: Final = Path(__file__).parent
_FILES: Final = ("package.json", "package-lock.json", "redocly.yaml", "spectral.yaml", "tsconfig.json", "asyncapi.js")
_TIMEOUT_SECONDS: Final = 600
_PYTHON_PACKAGE: Final = "tocsin_http_api_client"

OPENAPI_GENERATOR_LANGUAGES: Final = {"python": "openapi_generator", "typescript-fetch": "typescript_fetch"}
"""The folder of the client that openapi-generator writes, by its name for the language."""


def require_tools(*names: str) -> None:
    """Skip the test if one of these programs is not installed; in CI, fail it."""
    if missing := [name for name in names if shutil.which(name) is None]:
        sentence = f"{', '.join(missing)} not installed here: install what .ci/run installs"
        pytest.fail(sentence) if "CI" in os.environ else pytest.skip(sentence)


class Toolchain:
    """Linters, generators and compilers in a folder, together with the programs that use the generated clients."""

    def __init__(self, folder: Path) -> None:
        """Install everything. The two package managers run side by side."""
        self.folder = folder
        for name in _FILES:
            shutil.copy(_HERE / name, folder)
        shutil.copytree(_HERE / "programs", folder / "programs", ignore=shutil.ignore_patterns("__pycache__"))
        with ThreadPoolExecutor() as pool:
            for installed in [pool.submit(self._install_for_node), pool.submit(self._install_for_python)]:
                installed.result()

    def _install_for_node(self) -> None:
        self.run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")

    def _install_for_python(self) -> None:
        self.run(sys.executable, "-m", "venv", "venv")
        quiet = ("--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
        self.run("venv/bin/python", "-m", "pip", "install", *quiet, "-r", str(_HERE / "requirements.txt"))

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command in the folder; return its output. Fail the test with its output if it fails."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | {"NO_COLOR": "1"} | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-8000:]}"
        return done.stdout

    def node(self, package: str, *words: str) -> str:
        """Run the program of an installed package for Node."""
        return self.run(f"node_modules/.bin/{package}", *words)

    def python(self, program: str, *words: str) -> str:
        """Run a program with the Python environment that has the generators."""
        return self.run("venv/bin/python", program, *words, environment={"PYTHONPATH": self._python_path})

    @property
    def _python_path(self) -> str:
        folders = (self.folder, self.folder / OPENAPI_GENERATOR_LANGUAGES["python"])
        return os.pathsep.join(str(each) for each in folders)

    # --- generators --------------------------------------------------------------------------------------------

    def write_document(self, document: object) -> None:
        """Write the OpenAPI document that linters and generators read."""
        (self.folder / "openapi.json").write_text(json.dumps(document))

    def generate_openapi_python_client(self) -> str:
        """Generate the client of openapi-python-client; return what the generator said."""
        (self.folder / "openapi-python-client.yaml").write_text("post_hooks: []\n")
        return self.run(
            "venv/bin/openapi-python-client", "generate", "--path", "openapi.json", "--meta", "none",
            "--output-path", _PYTHON_PACKAGE, "--config", "openapi-python-client.yaml", "--fail-on-warning",
        )  # fmt: skip

    def generate_with_openapi_generator(self, language: str) -> str:
        """Generate a client of openapi-generator; return what the generator said."""
        named = ("--package-name", "generated_client") if language == "python" else ()
        jar = next(self.folder.glob("venv/lib/python*/site-packages/openapi_generator_cli/openapi-generator.jar"))
        target = OPENAPI_GENERATOR_LANGUAGES[language]
        return self.run(
            "java", "-jar", str(jar), "generate", "-g", language, "-i", "openapi.json", "-o", target, *named
        )

    def generate_for_typescript(self) -> str:
        """Generate the types of openapi-typescript and the client of hey-api; return what the generators said."""
        types = self.node("openapi-typescript", "openapi.json", "--output", "openapi_typescript/schema.d.ts")
        return types + self.node("openapi-ts", "--input", "openapi.json", "--output", "hey_api")

    # --- compilers ---------------------------------------------------------------------------------------------

    def compile_typescript(self) -> str:
        """Compile all clients for Node with their programs; return the compiler's errors."""
        return self.node("tsc", "--project", ".")

    def check_types(self, *paths: str) -> str:
        """Check the types of Python code; return the type checker's errors and its summary."""
        return self.run(
            "venv/bin/mypy", "--explicit-package-bases", "--no-error-summary", *paths,
            environment={"MYPYPATH": self._python_path},
        )  # fmt: skip

    def python_clients(self) -> Sequence[Sequence[str]]:
        """Return the paths of the Python clients, each with the program that uses it."""
        return (
            (_PYTHON_PACKAGE, "programs/openapi_python.py"),
            (f"{OPENAPI_GENERATOR_LANGUAGES['python']}/generated_client", "programs/openapi_generator.py"),
        )
