"""The public surface: every name resolves, is documented, and nothing heavy is imported for it."""

import importlib
import inspect
import subprocess
import sys

import pytest

import lazyscope


@pytest.mark.parametrize("name", [n for n in lazyscope.__all__ if n != "__version__"])
def test_every_public_name_resolves_and_has_a_docstring(name):
    thing = getattr(lazyscope, name)
    assert len(inspect.getdoc(thing) or "") > 20
    assert thing is getattr(lazyscope, name)
    assert inspect.ismodule(thing) == (name in lazyscope._MODULES)


@pytest.mark.parametrize("name", [*lazyscope._MODULES, "dynamics", "store"])
def test_every_name_of_a_public_module_has_a_docstring(name):
    module = importlib.import_module(f"lazyscope.{name}")
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__ and n[0] != "_"]
    for inner in getattr(module, "__all__", own):
        thing = getattr(module, inner)
        if callable(thing):
            assert len(inspect.getdoc(thing) or "") > 20, inner


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lazyscope.nothing  # noqa: B018


def test_importing_the_package_imports_no_jax():
    code = "import sys, lazyscope; print(sorted({'jax', 'xarray', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_type_checkers_see_the_same_names():
    source = inspect.getsource(lazyscope)
    assert all(f"import {name} as {name}" in source for name in (*lazyscope._HOMES, *lazyscope._MODULES))
