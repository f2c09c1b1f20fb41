import io
import itertools
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from queued_storage.steps import PASS, REJECT, REPLACE, Outcome
from queued_storage.steps.images import CleanImage
from queued_storage.testing import drain
from tests.support.scripted import file, read
from tests.support.stepping import EICAR, Passing, gated

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

GPS = 0x8825


def photo(kind: str = "JPEG", size: tuple[int, int] = (40, 20), **options: Any) -> bytes:
    """A photo with a place, a comment, a profile, and a rotation by a quarter."""
    picture = Image.new("RGB", size, "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    exif[0x010F] = "SECRET camera"
    exif.get_ifd(GPS)[2] = (52.0, 31.0, 12.0)
    target = io.BytesIO()
    picture.save(target, kind, exif=exif, icc_profile=b"profile", **options)
    return target.getvalue()


def outcome(step: CleanImage, data: bytes, name: str = "a.jpg") -> Outcome:
    return step.run(InMemory(data, name))


class InMemory:
    """A StepFile of bytes."""

    storage = "default"
    content_type = ""
    attempt = 1

    def __init__(self, data: bytes, name: str) -> None:
        self.name, self.data, self.size = name, data, len(data)

    def open(self, mode: str = "rb") -> Any:
        return file(self.data, self.name)

    def chunks(self) -> Any:
        yield self.data

    def local_path(self) -> Any:
        raise NotImplementedError

    def progress(self) -> None: ...


def cleaned(data: bytes, **options: Any) -> bytes:
    found = outcome(CleanImage(**options), data)
    assert isinstance(found, REPLACE), found
    with found.content as content:
        return bytes(content.read())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_only_pixels_and_profile_are_left(kind: str) -> None:
    data = cleaned(photo(kind) + EICAR)
    assert b"SECRET" not in data
    assert EICAR not in data
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == kind
        assert picture.size == (20, 40)  # turned upright
        assert not picture.getexif()
        assert picture.info.get("icc_profile") == b"profile"


def test_texts_of_a_png_are_removed() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "SECRET")
    texts.add_itxt("XML:com.adobe.xmp", "SECRET")
    assert b"SECRET" not in cleaned(photo("PNG", pnginfo=texts))


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_comments_are_removed(kind: str) -> None:
    target = io.BytesIO()
    Image.new("RGB", (4, 4)).save(target, kind, comment=b"SECRET")
    assert b"SECRET" in target.getvalue()
    assert b"SECRET" not in cleaned(target.getvalue())


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_keeps_its_frames(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")]
    target = io.BytesIO()
    frames[0].save(target, kind, save_all=True, append_images=frames[1:], duration=200, loop=0)
    with Image.open(io.BytesIO(cleaned(target.getvalue()))) as picture:
        assert picture.n_frames == 3  # type: ignore[attr-defined]
        picture.load()
        assert picture.info["duration"] == 200


def test_transparency_is_kept() -> None:
    target = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert("P").save(target, "PNG", transparency=0)
    with Image.open(io.BytesIO(cleaned(target.getvalue()))) as picture:
        assert picture.convert("RGBA").getpixel((0, 0))[3] == 0  # type: ignore[index]


def test_a_bomb_is_rejected_before_it_is_decoded() -> None:
    target = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(target, "PNG")
    assert len(target.getvalue()) < 100_000
    found = outcome(CleanImage(), target.getvalue())
    assert found == REJECT("The picture has more than 50,000,000 pixels.")


def test_frames_count() -> None:
    frames = [Image.new("L", (100, 100), number) for number in range(20)]
    target = io.BytesIO()
    frames[0].save(target, "GIF", save_all=True, append_images=frames[1:])
    assert isinstance(outcome(CleanImage(max_pixels=100_000), target.getvalue()), REJECT)


def test_a_damaged_picture_is_rejected() -> None:
    found = outcome(CleanImage(), photo(size=(400, 400))[:-1500])
    assert isinstance(found, REJECT)
    assert found.reason.startswith("The picture is damaged")


def test_other_files() -> None:
    assert outcome(CleanImage(), b"text") is PASS
    assert isinstance(outcome(CleanImage(if_no_image="reject"), b"text"), REJECT)
    target = io.BytesIO()
    Image.new("L", (4, 4)).save(target, "BMP")
    assert isinstance(outcome(CleanImage(), target.getvalue()), REJECT)


def test_as_a_step_of_a_storage() -> None:
    last = Passing()
    storage = gated(CleanImage(), last)
    name = storage.save("a.jpg", file(photo()))
    assert drain(storage) == {}
    data = read(storage, name)
    assert last.seen == [data]
    assert b"SECRET" not in data
    assert len(list(itertools.islice(storage.remote.listdir("")[1], 2))) <= 2
