"""The tests with the oldest and the newest version of pydantic, torchdiffeq and einops that pyproject.toml allows.

    python -m tests.stress.versions [PACKAGE ...] [--tests PATH ...]

Each version is installed (this needs the package index) into a temporary folder that comes before the environment's own
packages, so torch is not installed again. Exit code 1 where a test fails, or where another version than the one meant was used.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("pydantic", "torchdiffeq", "einops")
WITH_DEPENDENCIES = {"pydantic"}
"""pydantic needs its own pydantic-core; torchdiffeq's dependencies would bring another torch."""
TESTS = ("tests/config", "tests/core", "tests/solvers", "tests/models/test_networks.py", "tests/pyramids/test_reconstruction.py")


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
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)


def used(package: str, folder: Path) -> str:
    """The version that is imported, and an end of the whole where it is not the one in `folder`."""
    script = f"import {package} as p, importlib.metadata as m; print(p.__file__, m.version({package!r}))"
    file, version = run(folder, "-c", script).stdout.split()
    if not Path(file).is_relative_to(folder):
        raise SystemExit(f"{package} was imported from {file} and not from {folder}")
    return version


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="*", default=PACKAGES, metavar="PACKAGE")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH")
    options = parser.parse_args()
    failed = 0
    for package in options.packages:
        for requirement in (f"{package}=={oldest(package)}", package):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                install(requirement, folder)
                version = used(package, folder)
                done = run(folder, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--durations=0", *options.tests)
                failed += done.returncode != 0
                last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
                print(f"{package} {version}: {'passed' if done.returncode == 0 else 'FAILED'}: {last}", flush=True)
                if done.returncode:
                    print(done.stdout, done.stderr, file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
