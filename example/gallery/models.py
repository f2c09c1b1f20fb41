from django.db import models

from queued_storage.fields import QueuedImageField


class Picture(models.Model):
    image = QueuedImageField(upload_to="pictures", max_length=255)
    saved_in_ms = models.FloatField(null=True)

    def __str__(self) -> str:
        return str(self.image.name)
