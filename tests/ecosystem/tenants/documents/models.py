from django.db import connection, models


def path_of(instance: models.Model, name: str) -> str:
    return f"{connection.schema_name}/documents/{name}"


class Document(models.Model):
    file = models.FileField(upload_to=path_of)

    def __str__(self) -> str:
        return str(self.file)
