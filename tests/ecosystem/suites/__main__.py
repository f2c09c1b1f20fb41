"""Runs packages' own tests twice, with a plain and with a queued storage as the default storage.

``python -m tests.ecosystem.suites [NAME ...]`` takes the source distributions of the versions that
are installed from the package index, and prints a table. Everything is below build/suites.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from PIL import Image

ROOT = Path(__file__).parent.parent.parent.parent
PLACE = ROOT / "build" / "suites"
OURS = Path(__file__).parent / "settings"  # on the path of the tests, beside the package
STORAGES = ("plain", "queued")


class Suite(NamedTuple):
    settings: str  # of the package's tests
    tests: str
    picture: str = ""  # that the distribution lacks


SUITES = {
    "django-imagekit": Suite("tests.settings", "tests", "tests/media/reference.png"),
}


def download(name: str) -> Path:
    """Return the source distribution of the installed version."""
    wanted = f"{name}=={metadata.version(name)}"
    directory = PLACE / "distributions" / wanted
    if not directory.exists():
        command = ["pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([sys.executable, "-m", *command, "--dest", directory, wanted], check=True)
    [found] = directory.iterdir()
    return found


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.radial_gradient("L").convert("RGB").resize((300, 200)).save(path)


def results(name: str, storage: str) -> dict[str, str]:
    """Run the tests in an unpacked copy; return "passed" or another word for each of them."""
    directory = PLACE / storage / name
    shutil.rmtree(directory, ignore_errors=True)
    with tarfile.open(download(name)) as archive:
        archive.extractall(directory, filter="data")
    [unpacked] = directory.iterdir()
    if SUITES[name].picture:
        draw(unpacked / SUITES[name].picture)
    path = (unpacked, ROOT / "src", OURS)
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "SUITE_SETTINGS": SUITES[name].settings,
        "SUITE_STORAGE": storage,
    }
    report = PLACE / f"{name}-{storage}.xml"
    report.unlink(missing_ok=True)
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", f"--rootdir={unpacked}"]
    options += ["-c", str(OURS / "pytest.ini"), f"--junitxml={report}"]
    with (PLACE / f"{name}-{storage}.log").open("w") as log:
        subprocess.run(
            [sys.executable, "-m", "pytest", *options, SUITES[name].tests],
            cwd=unpacked,
            env=os.environ | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return outcomes(report)


def outcomes(report: Path) -> dict[str, str]:
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        ended = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[f"{case.get('classname')}.{case.get('name')}"] = ended[0] if ended else "passed"
    return found


def compare(name: str) -> None:
    plain, queued = (results(name, storage) for storage in STORAGES)
    passed = [sum(word == "passed" for word in each.values()) for each in (plain, queued)]
    version = metadata.version(name)
    differences = sorted(test for test in plain | queued if plain.get(test) != queued.get(test))
    print(f"| {name} {version} | {len(plain)} | {passed[0]} | {passed[1]} | {len(differences)} |")
    for test in differences:
        print(f"  {test}: {plain.get(test)}, {queued.get(test)}", file=sys.stderr)


def main(names: list[str]) -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    print("| package | tests | pass with a plain storage | with a queued storage | different |")
    print("|---|---|---|---|---|")
    for name in names or SUITES:
        compare(name)


main(sys.argv[1:])
