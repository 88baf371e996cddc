"""Remove each single check of the policy in turn, and see that the matrix of callers and requests notices.

Not part of the test run, because it takes minutes: ``python -m pytest -n 2 -rA --show-capture=no
tests/http/policy_mutations.py`` has a test for each mutant, which fails if no cell differs.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import pytest

from gateway.settings import GatewaySettings
from models import policy
from tests.conftest import Database
from tests.http.access_matrix import build_world, mismatches
from tests.http.gateway_server import Worker, running_gateway
from workers.stack.servers import EmbeddedServers

SOURCE = inspect.getsource(policy)

SYSTEM = "actor.kind is CallerKind.SYSTEM", "actor.kind is not CallerKind.SYSTEM"
"""Exemptions of tocsin itself, which sends no requests: tests/unit/test_policy.py tests them."""


class Mutant(NamedTuple):
    """The policy without one check."""

    name: str
    tree: ast.Module


def mutants() -> Iterator[Mutant]:
    """Yield the policy without each check: a guard, an operand of ``and``, ``or`` or ``&``, a call, or a ``not``."""
    for number in range(sum(1 for _ in _places(ast.parse(SOURCE)))):
        tree = ast.parse(SOURCE)
        function, node, change = list(_places(tree))[number]
        before = _line(node)
        change()
        after = _line(node)
        yield Mutant(f"{function}:{node.lineno}: {before} → {after}", ast.fix_missing_locations(tree))


def _line(node: ast.AST) -> str:
    return ast.unparse(node).splitlines()[0]


_Place = tuple[str, Any, Callable[[], None]]


def _places(tree: ast.Module) -> Iterator[_Place]:
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                for change in _changes(node):
                    yield function.name, node, change


def _changes(node: ast.AST) -> Iterator[Callable[[], None]]:
    match node:
        case ast.If(test=test) if ast.unparse(test) not in SYSTEM:
            yield lambda: setattr(node, "test", ast.Constant(value=False))
        case ast.BoolOp(op=op, values=values):
            neutral = isinstance(op, ast.And)
            for index, value in enumerate(values):
                if ast.unparse(value) not in SYSTEM:
                    yield partial(values.__setitem__, index, ast.Constant(value=neutral))
        case ast.BinOp(op=ast.BitAnd(), left=left):
            yield lambda: _replace(node, left)
        case ast.Expr(value=ast.Call()):
            yield lambda: setattr(node, "value", ast.Constant(value=None))
        case _:
            return


def _replace(node: ast.BinOp, left: ast.expr) -> None:
    node.op, node.right = ast.BitOr(), copy.deepcopy(left)


def functions_of(tree: ast.Module) -> dict[str, FunctionType]:
    """Return the module's functions, compiled from the tree."""
    names: dict[str, Any] = {"__name__": policy.__name__}
    exec(compile(tree, policy.__file__, "exec"), names)
    return _functions_in(names)


def _functions_in(names: Mapping[str, Any]) -> dict[str, FunctionType]:
    properties = {name: each.fget for name, each in vars(names["Actor"]).items() if isinstance(each, property)}
    values = {name: getattr(each, "__wrapped__", each) for name, each in names.items()} | properties
    return {
        name: each
        for name, each in values.items()
        if isinstance(each, FunctionType) and each.__module__ == policy.__name__
    }


@pytest.fixture
def mutated(request: pytest.FixtureRequest) -> Iterator[None]:
    """The policy without one check, in every module that has imported its functions."""
    originals = _functions_in(vars(policy))
    codes = {name: each.__code__ for name, each in originals.items()}
    for name, function in functions_of(request.param.tree).items():
        originals[name].__code__ = function.__code__
    policy._role_scopes.cache_clear()
    yield
    for name, code in codes.items():
        originals[name].__code__ = code
    policy._role_scopes.cache_clear()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutated", [pytest.param(each, id=each.name) for each in mutants()], indirect=True)
def test_a_removed_check_turns_a_cell_red(
    mutated: None,
    database: Database,
    servers: EmbeddedServers,
    settings: Callable[..., GatewaySettings],
) -> None:
    world = build_world(database.engine)
    worker = Worker(database.url, servers.redis_url)
    with running_gateway(settings(rate=1_000_000)) as gateway:
        first = next(mismatches(gateway, worker, database.engine, world), None)
    worker.stop()

    assert first is not None
