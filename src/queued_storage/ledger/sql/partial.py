"""An index of only some rows, on the databases that have such indexes."""

from typing import Any

from django.db import models


class PartialIndex(models.Index):
    """An index of the rows that meet the condition ``where``.

    MySQL and MariaDB have no such indexes, so there it is one of all rows. With ``condition``,
    Django does the same, but warns of it (``models.W037``), as if something had to be done.
    """

    def __init__(self, *expressions: Any, where: models.Q, **options: Any) -> None:
        super().__init__(*expressions, **options)
        self.where = where

    def deconstruct(self) -> Any:
        path, expressions, options = super().deconstruct()
        return path, expressions, options | {"where": self.where}

    def create_sql(self, model: Any, schema_editor: Any, using: str = "", **options: Any) -> Any:
        is_able = schema_editor.connection.features.supports_partial_indexes
        condition = self.where if is_able else None
        index = models.Index(fields=self.fields, name=self.name, condition=condition)
        return index.create_sql(model, schema_editor, using, **options)
