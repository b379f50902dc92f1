"""A new plugin as a distribution that can be installed: a component that works, its entry point, its
conformance test.

lapflow-NAME/
  pyproject.toml             the entry point
  README.md
  src/lapflow_NAME/          the component, made of the one in `skeletons/`
  tests/test_lapflow_NAME.py the conformance kit
"""

from __future__ import annotations

import os
import re
import shutil
from importlib.resources import files
from pathlib import Path

from lapflow.core.errors import ConfigError, printable
from lapflow.plugins.kinds import Kind, find_kind
from lapflow.plugins.registry import sources
from lapflow.plugins.skeletons import SKELETONS
from lapflow.util.files import ASIDE

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 50


def write_skeleton(kind: str, name: str, folder: Path, setting: str) -> list[Path]:
    """Write the distribution `lapflow-NAME` with one component of `kind` in `folder`; the files written.

    `setting` is where a config names the component. Raises `ConfigError` for a kind that is unknown or not in
    `SKELETONS`, a name that is not valid or is taken, and a folder that exists; then, and when the disk
    refuses, nothing is left.
    """
    found = find_kind(kind)
    if kind not in SKELETONS:
        raise ConfigError(
            f"there is no skeleton of kind {kind}",
            got=f"--kind {kind}",
            expected=f"one of: {', '.join(SKELETONS)}",
            remedy=f"subclass {found.contract}, and test it with lapflow.plugins.conformance.{_kit(found)}; "
            "docs/plugins.md shows how",
        )
    _check_name(found, name)
    if os.path.lexists(folder):
        raise ConfigError(
            "the folder exists already",
            got=str(folder),
            expected="a folder to be made",
            remedy="remove it, or give another --out",
        )
    contents = _contents(found, name, setting)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f"{ASIDE}{folder.name}-{os.getpid()}")
    try:
        for path, text in contents.items():
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            (aside / path).write_text(text, encoding="utf-8")
        aside.rename(folder)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return [folder / path for path in contents]


def distribution_name(name: str) -> str:
    """The distribution of the component `name`."""
    return f"lapflow-{name}"


def _kit(kind: Kind) -> str:
    return f"{kind.name.title().replace('_', '')}Conformance"


def _check_name(kind: Kind, name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        mended = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:LONGEST].strip("-")
        raise ConfigError(
            "this cannot be a component's name",
            got=printable(repr(name)),
            expected=f"at most {LONGEST} lower-case letters and digits, in words joined by -, the first a "
            f"letter: it names a package too",
            remedy=f"take {mended}" if NAME.fullmatch(mended) else None,
        )
    if taken := [listed.source for listed in sources(kind.name) if listed.source.name == name]:
        raise ConfigError(
            f"there is a {kind.name} of this name already",
            got=", ".join(f"{name} of {source.distribution}" for source in taken),
            expected="a name of its own: a built-in would hide it, and two plugins of one name must be told "
            "apart in every config",
            remedy=f"take another; `lapflow components {kind.name}` lists those in use",
        )


def _contents(kind: Kind, name: str, setting: str) -> dict[str, str]:
    """{path in the distribution: text}."""
    module, _, contract = kind.contract.partition(":")
    cls = "".join(word.capitalize() for word in name.split("-")) + contract
    distribution = distribution_name(name)
    package = distribution.replace("-", "_")
    code = files("lapflow.plugins").joinpath("skeletons", f"{kind.name}.py").read_text(encoding="utf-8")
    fields = {
        "kind": kind.name,
        "name": name,
        "distribution": distribution,
        "package": package,
        "cls": cls,
        "contract": contract,
        "module": module,
        "kit": _kit(kind),
        "group": kind.group,
        "make": "self.bands, self.condition" if kind.name == "backbone" else "",
        "setting": setting,
    }
    return {
        "pyproject.toml": _PYPROJECT.format_map(fields),
        "README.md": _README.format_map(fields),
        f"src/{package}/__init__.py": _INIT.format_map(fields),
        f"src/{package}/{kind.name}.py": re.sub(r"\bSkeleton\b", cls, code),
        f"src/{package}/py.typed": "",
        f"tests/test_{package}.py": _TEST.format_map(fields),
    }


_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1.0"
description = "A plugin for lapflow: the {kind} {name}"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["lapflow"]

[project.entry-points."{group}"]
{name} = "{package}.{kind}:{cls}"

[tool.setuptools.packages.find]
where = ["src"]

[tool.setuptools.package-data]
{package} = ["py.typed"]
"""

_INIT = '''\
"""A plugin for lapflow: the {kind} `{name}`."""

from {package}.{kind} import {cls}

__all__ = ["{cls}"]
'''

_TEST = '''\
"""`{name}` keeps the contract of a {kind}: lapflow's conformance kit, and that it is found by its name."""

from {package} import {cls}

from lapflow.plugins import get
from lapflow.plugins.conformance import {kit}


class Test{cls}({kit}):
    def make(self):
        return {cls}({make})


def test_it_is_found_by_name():
    assert get("{kind}", "{name}") is {cls}
'''

_README = """\
# {distribution}

A plugin for lapflow: the {kind} `{name}`.

    pip install --editable .
    python -m pytest tests
    lapflow components show {kind} {name}

A config names it under `{setting}`:

    {setting}={name}

What to change:

1. `src/{package}/{kind}.py`: the component. It works as it stands; its contract is `{contract}` in
   `{module}`. The annotated arguments of `__init__` are its config.
2. `tests/test_{package}.py`: the conformance kit states the contract's promises as tests. Keep them passing.
3. `pyproject.toml`: the entry point is what lapflow finds it by. Nothing is imported before a config names
it.
"""
