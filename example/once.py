"""The demo without a browser: `make demo ONCE=1`.

Upload images while S3 is down, start S3, wait until all are transferred, and compare every byte.
"""

import hashlib
import json
import math
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.template.defaultfilters import filesizeformat

import s3server

SIZES = os.environ.get("DEMO_SIZES", "10 100 1024 5120 51200")  # in KB
TRANSFERRED = "Transferred"  # as shown on the page
NOTICED_WITHIN = 60  # seconds until the site knows that S3 is down
DEADLINE = float(os.environ.get("DEMO_DEADLINE", "120"))  # seconds for all transfers


class Wrong(Exception):
    """An error, with a message for the terminal."""


@dataclass
class Upload:
    """One image and what was observed; each attribute is a column of the table."""

    file_name: str
    content: bytes
    saved_ms: float = 0
    meanwhile: str = ""
    state: str = ""
    on_s3_after: float = 0
    is_same: bool | None = None  # None until it is compared
    problems: list[str] = field(default_factory=list)

    def compare(self, found: Iterator[bytes], where: str) -> None:
        digest = hashlib.sha256()
        for piece in found:
            digest.update(piece)
        if digest.digest() != hashlib.sha256(self.content).digest():
            self.is_same = False
            self.problems.append(f"{where} differs from the uploaded file.")


def run(url: str) -> int:
    """Run the demo and return the exit code: 0 if all copies are identical."""
    uploads = [Upload(f"{size}-KB.bmp", picture(size * 1024)) for size in map(int, SIZES.split())]
    try:
        require_s3_is_down()
        site = Site(url)
        site.post("first.bmp", picture(1024))  # loads libraries and starts threads: not measured
        for upload in uploads:
            save_and_read_back(site, upload)
        show_outage(site)
        bring_s3_up()
        wait_for_all(site, uploads)
        for upload in uploads:
            compare(site, upload)
    except (Wrong, RuntimeError, OSError, BotoCoreError, ClientError) as wrong:
        print_table(uploads)
        print(f"\nERROR: {wrong}")
        return 1
    print_table(uploads)
    problems = [f"{upload.file_name} {what}" for upload in uploads for what in upload.problems]
    for problem in problems:
        print(f"ERROR: {problem}")
    if not problems:
        print("\nAll files were transferred to S3, and all copies are identical.")
    return 1 if problems else 0


# The steps


def require_s3_is_down() -> None:
    url = settings.S3.endpoint
    try:
        urlopen(url, timeout=2).close()
    except URLError as error:
        print(f"The S3 server is down. Connecting to {url} failed: {error.reason}.")
    else:
        raise Wrong(f"The S3 server must be down, but {url} responds.")


def save_and_read_back(site: "Site", upload: Upload) -> None:
    start = time.perf_counter()
    site.post(upload.file_name, upload.content)
    upload.saved_ms = (time.perf_counter() - start) * 1000
    file = site.file(upload.file_name)
    upload.meanwhile = {"local": "local disk", "s3": "S3"}[file["place"]]
    if file["place"] != "local":
        upload.problems.append("was not served from the local disk while S3 was down.")
    upload.compare(site.get(file["url"]), "on the local disk")


def show_outage(site: "Site") -> None:
    """Print what the ledger knows of S3: one state for all files."""
    start = time.monotonic()
    while not (text := site.state()["remote"]).startswith("S3 has been"):
        if time.monotonic() - start > NOTICED_WITHIN:
            raise Wrong("The site did not notice that S3 is down.")
        time.sleep(0.05)
    print(text)


def bring_s3_up() -> None:
    start = time.monotonic()
    settings.S3.start()
    print(
        f"The S3 server ({settings.S3.describe()}) started in {time.monotonic() - start:.1f} s.\n"
    )


def wait_for_all(site: "Site", uploads: list[Upload]) -> None:
    start = time.monotonic()
    while True:
        seconds = time.monotonic() - start
        for upload in uploads:
            upload.state = site.file(upload.file_name)["label"]
            if upload.state == TRANSFERRED and not upload.on_s3_after:
                upload.on_s3_after = seconds
        missing = [upload for upload in uploads if upload.state != TRANSFERRED]
        if not missing:
            return
        if seconds > DEADLINE:
            errors = {site.file(upload.file_name)["error"] for upload in missing}
            errors = (errors | {site.state()["remote"]}) - {""}
            raise Wrong(
                f"{len(missing)} of {len(uploads)} files were not transferred "
                f"within {DEADLINE:g} s. " + " ".join(sorted(errors))
            )
        time.sleep(0.05)


def compare(site: "Site", upload: Upload) -> None:
    file = site.file(upload.file_name)
    if file["place"] != "s3":
        upload.problems.append("was transferred, but the site does not serve it from S3.")
    upload.compare(site.get(file["url"]), "at the URL that the site returns")
    upload.compare(from_s3(f"pictures/{file['name']}"), "on S3")
    upload.is_same = upload.is_same is not False


def from_s3(key: str) -> Iterator[bytes]:
    """Read the object from the server, without this package."""
    client = settings.S3.client()
    yield from client.get_object(Bucket=s3server.BUCKET, Key=key)["Body"].iter_chunks(1024 * 1024)


def print_table(uploads: list[Upload]) -> None:
    columns: dict[str, Callable[[Upload], Any]] = {
        "name": lambda upload: upload.file_name,
        "size": lambda upload: filesizeformat(len(upload.content)).replace("\xa0", " "),
        "saved (ms)": lambda upload: f"{upload.saved_ms:.0f}",
        "served from (S3 down)": lambda upload: upload.meanwhile,
        "state": lambda upload: upload.state,
        "transferred after (s)": lambda upload: (
            f"{upload.on_s3_after:.1f}" if upload.on_s3_after else "-"
        ),
        "identical": lambda upload: {True: "yes", False: "NO", None: "-"}[upload.is_same],
    }
    rows = [list(columns), *([str(of(upload)) for of in columns.values()] for upload in uploads)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


# The site as a browser sees it


class Site:
    def __init__(self, url: str) -> None:
        self._url = url
        self._cookies = CookieJar()
        self._opener = build_opener(HTTPCookieProcessor(self._cookies))
        self._opener.open(url).close()  # sets the CSRF cookie

    def get(self, url: str) -> Iterator[bytes]:
        try:
            with self._opener.open(urljoin(self._url, url)) as answer:
                while piece := answer.read(1024 * 1024):
                    yield piece
        except HTTPError as error:
            raise Wrong(f"{error.url} returned an error: {error}.") from error

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(b"".join(self.get("/state/")))
        return found

    def file(self, file_name: str) -> dict[str, Any]:
        return next(file for file in self.state()["files"] if file["name"] == file_name)

    def post(self, file_name: str, content: bytes) -> None:
        boundary = "a-line-that-no-picture-has"
        head = (
            f"--{boundary}\r\nContent-Type: image/bmp\r\n"
            f'Content-Disposition: form-data; name="image"; filename="{file_name}"\r\n\r\n'
        )
        headers = {
            "Accept": "application/json",
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "X-CSRFToken": next(cookie.value or "" for cookie in self._cookies),
        }
        body = b"".join([head.encode(), content, f"\r\n--{boundary}--\r\n".encode()])
        try:
            self._opener.open(Request(f"{self._url}/upload/", body, headers)).close()
        except HTTPError as error:
            raise Wrong(f"The site rejected {file_name}: {error.read().decode()}") from error


def picture(size: int) -> bytes:
    """Return a BMP of random colors, ``size`` bytes long."""
    width = math.isqrt(size // 3) // 4 * 4
    height = (size - 54) // (width * 3)
    head = struct.pack(
        "<2sIHHI IiiHHIIiiII",
        *(b"BM", size, 0, 0, 54),
        *(40, width, height, 1, 24, 0, width * height * 3, 2835, 2835, 0, 0),
    )
    return head + os.urandom(size - len(head))
