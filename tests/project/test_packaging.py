"""The packages in the wheel, and their names."""

from __future__ import annotations

import tomllib
from importlib.metadata import packages_distributions

import pytest

from tests.project.tree import PACKAGES, ROOT, files, relative_path

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_claims_one_of_our_package_names(package: str) -> None:
    owners = set(packages_distributions().get(package, ()))

    assert owners <= {"tocsin"}, f"`{package}` also comes from {owners - {'tocsin'}}: one of the two hides the other"


def test_the_wheel_contains_exactly_our_packages() -> None:
    listed = PYPROJECT["tool"]["setuptools"]["packages"]

    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in files(".py")
        if path.relative_to(ROOT).parts[0] in PACKAGES
    }

    assert sorted(listed) == sorted(packages), "pyproject.toml, [tool.setuptools] packages, differs from the folders"


def test_every_directory_with_code_is_a_package() -> None:
    folders = {path.parent for path in files(".py") if path.relative_to(ROOT).parts[0] in (*PACKAGES, "tests")}

    assert [relative_path(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_no_module_has_the_name_of_a_package() -> None:
    taken = {f"{package}.py" for package in PACKAGES}

    assert [relative_path(path) for path in files(".py") if path.name in taken] == []


def test_the_distribution_cannot_be_uploaded_by_mistake() -> None:
    assert "Private :: Do Not Upload" in PYPROJECT["project"]["classifiers"]
