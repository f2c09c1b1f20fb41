"""A step that cleans pictures: ``queued_storage.steps.images.CleanImage``."""

import tempfile
from collections.abc import Sequence
from typing import IO, Any, Literal, cast

from django.core.files import File

from ..exceptions import MissingLibrary
from . import PASS, REJECT, REPLACE, Outcome, Step, StepFile

try:
    from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
except ImportError as error:
    raise MissingLibrary("Pillow", "images", "The step CleanImage") from error

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_PIXELS = 50_000_000  # of all frames together; a picture takes 4 bytes a pixel in memory
KEPT = ("transparency", "icc_profile", "duration", "loop", "background", "disposal")


class CleanImage(Step):
    """Write pictures anew, so that only their pixels and their color profile are left.

    That removes the place and the time where a photo was taken, its preview, comments, and whatever
    is hidden before or after the picture. A photo is turned as its camera asked for.

    A picture of more than ``max_pixels`` is rejected before it is decoded, and so is one that is
    damaged, or not one of ``formats``. ``if_no_image`` says what becomes of other files: ``"pass"``
    or ``"reject"``.
    """

    def __init__(
        self,
        *,
        max_pixels: int = MAX_PIXELS,
        formats: Sequence[str] = FORMATS,
        quality: int = 90,
        if_no_image: Literal["pass", "reject"] = "pass",
    ) -> None:
        self._max_pixels = max_pixels
        self._formats = tuple(formats)
        self._quality = quality
        self._if_no_image = if_no_image

    def run(self, file: StepFile) -> Outcome:
        with file.open() as opened:
            try:
                picture = Image.open(cast(Any, opened))
            except UnidentifiedImageError:
                is_passed = self._if_no_image == "pass"
                return PASS if is_passed else REJECT("The file is not a picture.")
            except Image.DecompressionBombError:
                return REJECT(f"The picture has more than {self._max_pixels:,} pixels.")
            with picture:
                return self._cleaned(picture, file)

    def _cleaned(self, picture: Image.Image, file: StepFile) -> Outcome:
        kind = picture.format
        if kind == "MPO":  # a JPEG with a second picture, which is left out
            kind = "JPEG"
        if kind not in self._formats:
            return REJECT(f"Pictures of the format {kind} are not allowed.")
        frames = getattr(picture, "n_frames", 1) if picture.format != "MPO" else 1
        if picture.width * picture.height * frames > self._max_pixels:
            return REJECT(f"The picture has more than {self._max_pixels:,} pixels.")
        target: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # REPLACE closes it
        try:
            self._write(picture, kind, frames, target)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            target.close()
            if isinstance(error, OSError) and error.errno:  # of this host, such as a full disk
                raise
            return REJECT(f"The picture is damaged: {error}")
        except BaseException:
            target.close()
            raise
        target.seek(0)
        return REPLACE(File(target, file.name))

    def _write(self, picture: Image.Image, kind: str, frames: int, target: IO[bytes]) -> None:
        options: dict[str, Any] = {}
        if profile := picture.info.get("icc_profile"):
            options["icc_profile"] = profile
        if kind in ("JPEG", "WEBP"):
            options["quality"] = self._quality
        if frames > 1:
            first, *others = [_bare(frame) for frame in ImageSequence.Iterator(picture)]
            first.save(target, kind, save_all=True, append_images=others, **options)
            return
        upright = ImageOps.exif_transpose(picture)
        _bare(upright).save(target, kind, **options)


def _bare(picture: Image.Image) -> Image.Image:
    """Return a copy without anything that Pillow would write beside the pixels."""
    copy = picture.copy()
    copy.info = {key: picture.info[key] for key in KEPT if key in picture.info}
    return copy
