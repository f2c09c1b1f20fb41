"""Move a Wagtail site with uploads from its local disk to S3, in a real browser.

Run it with `make adoption`. docs/tutorial-wagtail.md has the same steps. It requires chromium and
chromedriver, and takes one or two minutes. ADOPTION_SCREENSHOTS is a directory for screenshots.
"""

import contextlib
import hashlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image, ImageDraw
from selenium import webdriver
from selenium.webdriver.common.by import By

import s3server

BUCKET = "media"
USER = PASSWORD = "adoption"
DEADLINE = 60.0  # seconds to wait for any condition
HERE = Path(__file__).resolve().parent

# The code of the tutorial. tests/test_docs.py compares the tutorial with it.

HOME_MODELS = """
from wagtail.documents.models import Document
from wagtail.images.models import Image
from wagtail.models import Page


class HomePage(Page):
    def get_context(self, request):
        uploads = {"images": Image.objects.all(), "documents": Document.objects.all()}
        return super().get_context(request) | uploads
"""

HOME_TEMPLATE = """
{% extends "base.html" %}
{% load wagtailimages_tags %}
{% block content %}
{% for picture in images %}{% image picture width-400 %}{% endfor %}
{% for document in documents %}<p><a href="{{ document.url }}">{{ document }}</a></p>{% endfor %}
{% endblock %}
"""

SETTINGS = """
INSTALLED_APPS += ["queued_storage"]

STORAGES["disk"] = STORAGES["default"]
STORAGES["s3"] = {
    "BACKEND": "storages.backends.s3.S3Storage",
    "OPTIONS": {"bucket_name": "media", "signature_version": "s3v4"},
}
STORAGES["default"] = {
    "BACKEND": "queued_storage.backends.QueuedStorage",
    "OPTIONS": {"local": "disk", "remote": "s3"},
}
"""

SQLITE_SETTINGS = """
DATABASES["default"]["OPTIONS"] = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
}
"""


def main() -> int:
    for name in ("SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), lambda *_: sys.exit("Terminated."))
    if missing := [name for name in ("chromium", "chromedriver") if not shutil.which(name)]:
        sys.exit(f"Not installed: {', '.join(missing)}. Run: apt install chromium chromium-driver")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="adoption-"))
        try:
            adopt(Adoption(Path(directory), stack))
        except AssertionError as error:
            print(f"ERROR: {error}")
            return 1
    print("\nAll checks passed.")
    return 0


def adopt(site: "Adoption") -> None:
    say("Create a Wagtail site with FileSystemStorage")
    site.run("wagtail start mysite .")
    site.write("home/models.py", HOME_MODELS)
    site.write("home/templates/home/home_page.html", HOME_TEMPLATE)
    site.run("python manage.py migrate")
    site.run("python manage.py createsuperuser --noinput")
    with site.served():
        browser = site.browser
        browser.log_in()
        for number in range(3):
            browser.upload("images", site.picture(f"landscape-{number}.jpg"))
        handbook = browser.upload("documents", site.archive("handbook.zip"))
        pictures = browser.pictures_of("/")
        check(len(pictures) == 3, "The home page shows three images.")
        check(all(site.url in url for url in pictures), "All images are served by the site itself.")
    uploaded = site.local_files()
    originals = [name for name in uploaded if name.startswith("original_images/")]
    check(len(originals) == 3, f"The disk has {len(uploaded)} files. Three are originals.")

    say("Configure QueuedStorage and create a bucket")
    site.append("mysite/settings/base.py", SETTINGS)
    site.append("mysite/settings/base.py", SQLITE_SETTINGS)
    site.start_s3()
    site.run("python manage.py check")
    site.run("python manage.py migrate")
    with site.served():
        pictures = browser.pictures_of("/")
        check(all(site.url in url for url in pictures), "The site still serves the images itself.")

        say("Transfer the existing files while the site is running")
        site.run("python manage.py queued_storage backfill --dry-run")
        check(not site.s3_files(), "The dry run uploaded nothing.")
        site.run("python manage.py queued_storage backfill")
        site.run("python manage.py queued_storage worker --until-empty")
        site.run("python manage.py queued_storage flush --wait")
        site.run("python manage.py queued_storage verify --content")
        check(site.s3_files() == uploaded, f"S3 has identical copies of all {len(uploaded)} files.")
        pictures = browser.pictures_of("/")
        check(all(site.s3.endpoint in url for url in pictures), "The images are served from S3.")

        say("Evict the local copies")
        site.run("python manage.py queued_storage evict --all --dry-run")
        check(site.local_files() == uploaded, "The dry run evicted nothing.")
        site.run("python manage.py queued_storage evict --all")
        check(not site.local_files(), "No files are left on the disk.")

        say("Check the pages")
        pictures = browser.pictures_of("/")
        check(len(pictures) == 3, "The home page shows three images.")
        check(all(site.s3.endpoint in url for url in pictures), "All images are served from S3.")
        pictures = browser.pictures_of("/admin/images/")
        check(len(pictures) == 3, "The list of images in the admin shows three images.")
        pictures = browser.pictures_of("/admin/images/1/")
        check(bool(pictures), "The edit view of an image creates a rendition.")
        check(
            browser.download("/", "handbook.zip") == handbook,
            "The downloaded document is identical.",
        )

        say("Upload a new image")
        landscape = browser.upload("images", site.picture("landscape-3.jpg"))
        until(lambda: landscape in site.s3_files().values(), "Its original is transferred to S3.")
        check(len(browser.pictures_of("/")) == 4, "The home page shows four images.")
        site.run("python manage.py queued_storage flush --wait")
        pictures = browser.pictures_of("/")
        check(all(site.s3.endpoint in url for url in pictures), "All images are served from S3.")
        browser.screenshot("home")
        browser.pictures_of("/admin/images/")
        browser.screenshot("images")
        site.run("python manage.py queued_storage status --check")
        site.run("python manage.py queued_storage verify")

        say("Delete an image in the admin")
        browser.submit("/admin/images/1/delete/")
        until(
            lambda: not site.has_in_s3("landscape-0"), "The image and its renditions are deleted."
        )

        say("Move back to the local disk")
        site.run("python manage.py queued_storage restore --all")
        site.run("python manage.py queued_storage verify --content")
        check(site.local_files() == site.s3_files(), "The disk and S3 have identical files.")


class Adoption:
    """The project in its own directory. Everything that it starts ends with the stack."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self._project = directory / "project"
        self._media = self._project / "media"
        self._uploads = directory / "uploads"
        for path in (self._project, self._uploads):
            path.mkdir()
        self.s3 = s3server.S3Server(directory / "s3")
        stack.callback(self.s3.stop)
        [self._port] = s3server.free_ports(1)
        self.url = f"http://127.0.0.1:{self._port}"
        self._environment = os.environ | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SUPERUSER_USERNAME": USER,
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            "DJANGO_SUPERUSER_EMAIL": "adoption@example.com",
            "AWS_ACCESS_KEY_ID": s3server.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": s3server.SECRET_KEY,
            "AWS_DEFAULT_REGION": s3server.REGION,
            "AWS_ENDPOINT_URL_S3": self.s3.endpoint,
        }
        self.browser = Browser(self.url, directory, stack)

    def run(self, command: str) -> None:
        print(f"$ {command}", flush=True)
        done = subprocess.run(
            shlex.split(command),
            cwd=self._project,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        shown = done.stdout if " queued_storage " in command or done.returncode else ""
        for line in shown.splitlines():
            print(f"  {line}", flush=True)
        check(done.returncode == 0, None, f"{command} exited with status {done.returncode}.")

    def write(self, name: str, text: str) -> None:
        print(f"Writing {name}.")
        (self._project / name).write_text(text.lstrip())

    def append(self, name: str, text: str) -> None:
        print(f"Appending to {name}.")
        with (self._project / name).open("a") as file:
            file.write(text)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Run the development server. Its supervisor kills it however this script ends."""
        log = self.directory / "server.log"
        command = ["python", "manage.py", "runserver", "--noreload", str(self._port)]
        print(f"$ {shlex.join(command)}", flush=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, HERE / "s3server.py", *command],
                cwd=self._project,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            until(lambda: answers(self.url) or process.poll() is not None)
            yield
        except BaseException:
            print(log.read_text(errors="replace")[-3000:])
            raise
        finally:
            assert process.stdin
            process.stdin.close()  # the supervisor then kills it
            process.wait()

    def start_s3(self) -> None:
        print(f"Starting an S3 server ({self.s3.name}) with the bucket {BUCKET}.")
        self.s3.start()
        with contextlib.closing(self.s3.client()) as client:
            client.create_bucket(Bucket=BUCKET)

    def local_files(self) -> dict[str, str]:
        """Return the checksum of each file by its name."""
        return {
            path.relative_to(self._media).as_posix(): checksum(path.read_bytes())
            for path in self._media.rglob("*")
            if path.is_file()
        }

    def s3_files(self) -> dict[str, str]:
        """Return the same for S3, read from the server without this package."""
        with contextlib.closing(self.s3.client()) as client:
            found = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
            return {
                key: checksum(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
                for key in (each["Key"] for each in found)
            }

    def has_in_s3(self, text: str) -> bool:
        return any(text in name for name in self.s3_files())

    def picture(self, name: str) -> Path:
        """Create an image of hills in random colors."""
        image = Image.new("RGB", (1600, 1200), random_colour(150, 255))
        draw = ImageDraw.Draw(image)
        for horizon in (400, 600, 800, 1000):
            points = [(x, horizon + random.randrange(-90, 90)) for x in range(0, 1700, 100)]
            draw.polygon([(0, 1200), *points, (1600, 1200)], fill=random_colour(0, 180))
        path = self._uploads / name
        image.save(path, quality=95)
        return path

    def archive(self, name: str) -> Path:
        path = self._uploads / name
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("noise", random.randbytes(3_000_000))
        return path


class Browser:
    """A headless Chromium that visits the site."""

    def __init__(self, url: str, directory: Path, stack: contextlib.ExitStack) -> None:
        self._url = url
        self._downloads = directory / "downloads"
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.add_argument("--window-size=1280,1000")
        options.add_experimental_option(
            "prefs", {"download.default_directory": str(self._downloads)}
        )
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self._driver = webdriver.Chrome(options, service)
        stack.callback(self._driver.quit)

    def log_in(self) -> None:
        self._open("/admin/login/")
        self._element("[name=username]").send_keys(USER)
        self._element("[name=password]").send_keys(PASSWORD)
        self._press("form button[type=submit]")
        print("Logging in.")

    def upload(self, kind: str, file: Path) -> str:
        """Upload a file with the form in the admin, and return its checksum."""
        self._open(f"/admin/{kind}/add/")
        self._element("[name=file]").send_keys(str(file))
        until(lambda: self._element("[name=title]").get_property("value"))  # from the file's name
        self._press("main form button[type=submit]")
        until(lambda: self._path() == f"/admin/{kind}/", f"{file.name} is uploaded.")
        return checksum(file.read_bytes())

    def submit(self, path: str) -> None:
        self._open(path)
        self._press("main form [type=submit]")
        until(lambda: self._path() != path)

    def pictures_of(self, path: str) -> list[str]:
        """Return the URLs of the images in the content of a page, once all of them are loaded."""
        self._open(path)
        images = self._driver.find_elements(By.CSS_SELECTOR, "main img, body.template-homepage img")
        images = images or self._driver.find_elements(By.CSS_SELECTOR, "body img")
        for image in images:
            self._driver.execute_script("arguments[0].scrollIntoView()", image)
            until(lambda image=image: image.get_property("complete"))
            url = str(image.get_property("src"))
            check(
                image.get_property("naturalWidth") > 0, None, f"{url} is not displayed on {path}."
            )
        return [str(image.get_property("src")) for image in images]

    def download(self, path: str, name: str) -> str:
        """Click a link, and return the checksum of the downloaded file."""
        self._open(path)
        self._press(f"a[href$='{name}']")
        file = self._downloads / name
        until(file.is_file)
        return checksum(file.read_bytes())

    def screenshot(self, name: str) -> None:
        if directory := os.environ.get("ADOPTION_SCREENSHOTS"):
            Path(directory).mkdir(parents=True, exist_ok=True)
            self._driver.save_screenshot(str(Path(directory) / f"{name}.png"))

    def _open(self, path: str) -> None:
        self._driver.get(self._url + path)

    def _path(self) -> str:
        return self._driver.current_url.removeprefix(self._url)

    def _element(self, selector: str) -> Any:
        return self._driver.find_element(By.CSS_SELECTOR, selector)

    def _press(self, selector: str) -> None:
        self._driver.execute_script("arguments[0].click()", self._element(selector))


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def check(is_so: bool, what: str | None, otherwise: str | None = None) -> None:
    if not is_so:
        raise AssertionError(otherwise or f"This is not true: {what}")
    if what:
        print(f"- {what}", flush=True)


def until(is_so: Callable[[], Any], what: str | None = None) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        check(
            time.monotonic() < deadline,
            None,
            f"Not true after {DEADLINE:g} s: {what or 'The site is ready.'}",
        )
        time.sleep(0.1)
    check(True, what)


def answers(url: str) -> bool:
    try:
        urlopen(url, timeout=5).close()
    except URLError:
        return False
    return True


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def random_colour(low: int, high: int) -> tuple[int, int, int]:
    return random.randint(low, high), random.randint(low, high), random.randint(low, high)


if __name__ == "__main__":
    sys.exit(main())
