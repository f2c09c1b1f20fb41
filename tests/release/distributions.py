"""Checks the distributions in a directory before they are uploaded.

``python -m tests.release.distributions dist`` installs the wheel in a new environment and uses it
there, and runs some tests of the source distribution. ``make release-check`` builds both before.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TESTS = (
    "tests/release/test_urls.py",
    "tests/release/test_versions.py",
    "tests/release/test_workflow.py",
    "tests/storage/test_saving.py",
    "tests/test_migrations.py",
)


def run(*command: str | Path, **variables: str) -> None:
    # Without the variables of the make that runs this, which a make in it would read
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    subprocess.run([str(part) for part in command], env=inherited | variables, check=True)


def check_wheel(wheel: Path, directory: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packages = {name.partition("/")[0] for name in archive.namelist()}
    assert {name for name in packages if not name.endswith(".dist-info")} == {"queued_storage"}

    run(sys.executable, "-m", "venv", directory / "environment")
    python = directory / "environment" / "bin" / "python"
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(python, *install, wheel, f"Django=={metadata.version('Django')}")
    (directory / "project").mkdir()
    run(python, "-I", "-W", "error", ROOT / "tests/release/installed.py", directory / "project")


def check_source(source: Path, directory: Path) -> None:
    """Run tests of the source distribution, in the environment of the repository."""
    with tarfile.open(source) as archive:
        archive.extractall(directory, filter="data")
    unpacked = directory / source.name.removesuffix(".tar.gz")
    code = "import queued_storage; print(queued_storage.__file__)"
    imported = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(unpacked / "src")},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert Path(imported.stdout.strip()).is_relative_to(unpacked), imported.stdout

    given = (f"VENV={sys.prefix}", "DATABASES=sqlite", "COVERAGE=", "WORKERS=2")
    tests = f"PYTEST_ARGS=-q {' '.join(TESTS)}"
    existing = [f"--assume-old={sys.prefix}/{stamp}" for stamp in (".made", ".installed")]
    make = ("make", "-C", unpacked, *existing)
    run(*make, "lint", "pytest", *given, tests, PYTHONPATH=str(unpacked / "src"))


def main(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    [source] = built.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as directory:
        check_wheel(wheel, Path(directory))
        check_source(source, Path(directory))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
