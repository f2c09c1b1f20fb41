"""A model with an image field for each package."""

from django.db import models
from easy_thumbnails.fields import ThumbnailerImageField
from imagekit.models import ImageSpecField
from pilkit.processors import ResizeToFit
from sorl.thumbnail import ImageField as SorlImageField


class Picture(models.Model):
    class Meta:
        abstract = True

    def __str__(self) -> str:
        return str(self.image)


class Plain(Picture):
    image = models.ImageField(upload_to="plain")


class Measured(Picture):
    image = models.ImageField(upload_to="measured", width_field="width", height_field="height")
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()


class Easy(Picture):
    image = ThumbnailerImageField(upload_to="easy")


class Sorl(Picture):
    image = SorlImageField(upload_to="sorl")


class Kit(Picture):
    image = models.ImageField(upload_to="kit")
    small = ImageSpecField(source="image", processors=[ResizeToFit(width=50)], format="JPEG")
    large = ImageSpecField(source="image", processors=[ResizeToFit(width=80)], format="JPEG")
