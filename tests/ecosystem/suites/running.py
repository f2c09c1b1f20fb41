"""Downloads the source distribution of a package, and runs its tests."""

import os
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from .packages import SUITES

ROOT = Path(__file__).parent.parent.parent.parent
PLACE = ROOT / "build" / "suites"
OURS = Path(__file__).parent / "settings"  # on the path of the tests, beside the package
PASSED = "passed"


def requirement(name: str) -> str:
    """Return the package with the version that is installed."""
    return f"{name}=={metadata.version(name)}"


def outcomes(name: str, storage: str) -> dict[str, str]:
    """Run the tests in an unpacked copy; return "passed" or another word for each of them."""
    suite = SUITES[name]
    place = PLACE / requirement("Django") / f"{requirement(name)}-{storage}"
    shutil.rmtree(place, ignore_errors=True)
    with tarfile.open(_download(name)) as archive:
        archive.extractall(place, filter="data")
    [unpacked] = place.iterdir()
    if suite.picture:
        _draw(unpacked / suite.picture)
    if suite.package:
        (unpacked / suite.package / "__init__.py").touch()
    path = (unpacked, unpacked / suite.path, ROOT / "src", OURS)
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "SUITE_SETTINGS": suite.settings,
        "SUITE_STORAGE": storage,
    }
    report = place / "report.xml"
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", f"--rootdir={unpacked}"]
    options += ["-c", str(OURS / "pytest.ini"), f"--junitxml={report}", "-p", "database_of_suites"]
    options += ["--ds=with_queued"] if suite.settings else ["-p", "by_configure"]
    with (place / "log").open("w") as log:
        subprocess.run(
            [sys.executable, "-m", "pytest", *options, *suite.tests.split()],
            cwd=unpacked,
            env=os.environ | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if not report.exists():
        raise SystemExit(f"The tests of {name} did not run: see {place / 'log'}.")
    return _read(report)


def _download(name: str) -> Path:
    directory = PLACE / "distributions" / requirement(name)
    if not directory.exists():
        command = ["pip", "download", "--quiet", "--no-deps", "--no-binary", name]
        command += ["--dest", str(directory), requirement(name)]
        subprocess.run([sys.executable, "-m", *command], check=True)
    [found] = directory.iterdir()
    return found


def _draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.radial_gradient("L").convert("RGB").resize((300, 200)).save(path)


def _read(report: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.get('classname')}.{case.get('name')}"
        ended = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        # A failed part of a test has its name, too.
        if test not in found or ended:
            found[test] = ended[0] if ended else PASSED
    return found
