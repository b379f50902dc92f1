"""The tests with the oldest and the newest versions of pydantic, torchdiffeq and einops that pyproject.toml
allows.

    python -m tests.stress.versions [PACKAGE ...] [--tests PATH ...]

The oldest versions together, then the newest together; where one set fails, `PACKAGE` alone says whose fault
it is. A set is installed (this needs the package index) into a temporary folder that comes before the
environment's own packages, so torch is not installed again. Run are the tests of what these three do here:
configs and components (pydantic), solvers and sampling (torchdiffeq), networks, pyramids and pictures
(einops), and every command and line of Python of the README. Exit code 1 where a test fails, or where another
version than the one meant was used.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("pydantic", "torchdiffeq", "einops")
WITH_DEPENDENCIES = {"pydantic"}
"""pydantic needs its own pydantic-core; torchdiffeq's dependencies would bring another torch."""
TESTS = (
    "tests/config",
    "tests/core",
    "tests/solvers",
    "tests/sampling",
    "tests/plugins/test_registry.py",
    "tests/models/test_networks.py",
    "tests/pyramids",
    "tests/test_documents.py::test_commands_run[README.md]",
    "tests/test_documents.py::test_python_blocks_run[README.md]",
)


def oldest(package: str) -> str:
    """The lower bound of `package` in pyproject.toml."""
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        if found := re.fullmatch(rf"{package}>=([\d.]+)", line):
            return found[1]
    raise SystemExit(f"pyproject.toml has no lower bound of {package}")


def install(requirement: str, folder: Path) -> None:
    alone = [] if re.match(r"\w+", requirement)[0] in WITH_DEPENDENCIES else ["--no-deps"]  # type: ignore[index]
    options = ["--quiet", "--disable-pip-version-check", "--upgrade", "--target", str(folder), *alone]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, requirement], check=True)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(folder), str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def used(package: str, folder: Path) -> str:
    """The version that is imported, and an end of the whole where it is not the one in `folder`."""
    script = f"import {package} as p, importlib.metadata as m; print(p.__file__, m.version({package!r}))"
    file, version = run(folder, "-c", script).stdout.split()
    if not Path(file).is_relative_to(folder):
        raise SystemExit(f"{package} was imported from {file} and not from {folder}")
    return f"{package} {version}"


def passes(requirements: list[str], tests: list[str]) -> bool:
    """Run the tests with these versions, and print which they are, how long it took, and what pytest said."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for requirement in requirements:
            install(requirement, folder)
        versions = ", ".join(used(re.match(r"\w+", requirement)[0], folder) for requirement in requirements)  # type: ignore[index]
        start = time.monotonic()
        done = run(folder, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests)
        seconds = time.monotonic() - start
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
        print(f"{versions}: {'FAILED' if done.returncode else 'passed'}, {seconds:.0f} s: {last}", flush=True)
        if done.returncode:
            print(done.stdout, done.stderr, file=sys.stderr)
        return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="*", default=PACKAGES, metavar="PACKAGE")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH")
    options = parser.parse_args()
    sets = [[f"{package}=={oldest(package)}" for package in options.packages], list(options.packages)]
    failed = [requirements for requirements in sets if not passes(requirements, options.tests)]
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
