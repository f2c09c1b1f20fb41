from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from wagtail.images.models import Image

from .models import Easy, Kit, Measured, Plain, Sorl

MODELS = {
    "plain": Plain,
    "measured": Measured,
    "easy": Easy,
    "sorl": Sorl,
    "kit": Kit,
    "wagtail": Image,
}


def page(request: HttpRequest, kind: str, width: int) -> HttpResponse:
    """Show all images of a kind as thumbnails of this width."""
    context = {"pictures": MODELS[kind].objects.order_by("pk"), "width": width}
    return render(request, f"gallery/{kind}.html", context)
