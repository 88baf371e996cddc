"""The import graph has no cycles, neither between siblings nor between a package and its own modules."""

from __future__ import annotations

from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

import grimp

PACKAGES = ("gateway", "workers", "tasks", "models")


def node_in(package: str, module: str) -> str:
    """Return the package itself, or its child that is or contains the module."""
    if module == package:
        return package
    return f"{package}.{module.removeprefix(f'{package}.').split('.')[0]}"


def import_cycles(graph: grimp.ImportGraph) -> list[list[str]]:
    """Return one cycle for each package that has any, between its children and its own `__init__`."""
    imports: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            for package in packages_around(importer) & packages_around(imported):
                source, target = node_in(package, importer), node_in(package, imported)
                if source != target:
                    imports[package][source].add(target)
    return [cycle for package in sorted(imports) if (cycle := first_cycle(imports[package]))]


def packages_around(module: str) -> set[str]:
    """Return the module itself, which may be a package's `__init__`, and every package that contains it."""
    parts = module.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts) + 1)}


def first_cycle(imports: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def test_no_package_has_an_import_cycle_even_between_parent_and_child() -> None:
    # Imports inside functions also count. Only a module name in a string does not.
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)

    assert import_cycles(graph) == []


def test_a_package_and_a_child_that_import_each_other_form_a_cycle() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in (("p", "p.child"), ("p.child.deep", "p")):
        graph.add_import(importer=importer, imported=imported)

    assert [set(cycle) for cycle in import_cycles(graph)] == [{"p", "p.child"}]


def test_two_siblings_that_import_each_other_form_a_cycle() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in (("p.a.x", "p.b"), ("p.b", "p.a.y")):
        graph.add_import(importer=importer, imported=imported)

    assert [set(cycle) for cycle in import_cycles(graph)] == [{"p.a", "p.b"}]
