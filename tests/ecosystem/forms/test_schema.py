from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.validation import validate_schema
from rest_framework.routers import SimpleRouter

from .library.api import Letters, Papers


def schema_of(viewset: Any) -> Any:
    """Return the schema of an API that consists of this view."""
    router = SimpleRouter()
    router.register("things", viewset, basename="things")
    schema = SchemaGenerator(patterns=router.urls).get_schema(request=None, public=True)
    validate_schema(schema)
    return schema


def renamed(value: Any) -> Any:
    """Rename letters to papers in a schema."""
    if isinstance(value, dict):
        return {renamed(key): renamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item) for item in value]
    if isinstance(value, str):
        return value.replace("Letter", "Paper").replace("letter", "paper")
    return value


@pytest.mark.parametrize("split", [False, True])
def test_schema_matches_djangos_fields(split: bool) -> None:
    spectacular_settings.apply_patches({"COMPONENT_SPLIT_REQUEST": split})
    try:
        ours, theirs = schema_of(Papers), schema_of(Letters)
    finally:
        spectacular_settings.clear_patches()
    assert ours == renamed(theirs)
    assert "Paper" in ours["components"]["schemas"]
    file = ours["components"]["schemas"]["Paper"]["properties"]["file"]
    assert (file["type"], file["format"]) == ("string", "uri")
    if split:
        sent = ours["components"]["schemas"]["PaperRequest"]["properties"]["file"]
        assert (sent["type"], sent["format"]) == ("string", "binary")
