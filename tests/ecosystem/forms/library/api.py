from typing import Any

from rest_framework import routers, serializers, views, viewsets
from rest_framework.parsers import FileUploadParser
from rest_framework.request import Request
from rest_framework.response import Response

from .models import Draft, Letter, Note, Paper


class PaperSerializer(serializers.ModelSerializer):
    class Meta:
        model = Paper
        fields = ["id", "author", "file", "scan"]


class LetterSerializer(serializers.ModelSerializer):
    class Meta:
        model = Letter
        fields = ["id", "author", "file", "scan"]


class NoteSerializer(serializers.ModelSerializer):
    """A serializer that returns the name instead of the URL."""

    class Meta:
        model = Note
        fields = ["id", "file", "code"]
        extra_kwargs = {"file": {"use_url": False}}


class DraftSerializer(serializers.ModelSerializer):
    class Meta:
        model = Draft
        fields = ["id", "title", "file"]


class Papers(viewsets.ModelViewSet):
    queryset = Paper.objects.order_by("pk")
    serializer_class = PaperSerializer


class Letters(viewsets.ModelViewSet):
    queryset = Letter.objects.order_by("pk")
    serializer_class = LetterSerializer


class Notes(viewsets.ModelViewSet):
    queryset = Note.objects.order_by("pk")
    serializer_class = NoteSerializer


class Drafts(viewsets.ModelViewSet):
    queryset = Draft.objects.order_by("pk")
    serializer_class = DraftSerializer


class RawUpload(views.APIView):
    """A view that saves the body of the request as the file."""

    parser_classes = [FileUploadParser]

    def put(self, request: Request, filename: str) -> Response:
        paper = Paper.objects.create(file=request.data["file"])
        return Response(PaperSerializer(paper).data, status=201)


class FailingPapers(Papers):
    """A view that fails after the save."""

    def perform_create(self, serializer: Any) -> None:
        serializer.save()
        raise serializers.ValidationError("That was too late.")


router = routers.SimpleRouter()
router.register("papers", Papers, basename="papers")
router.register("letters", Letters, basename="letters")
router.register("notes", Notes, basename="notes")
router.register("drafts", Drafts, basename="drafts")
router.register("failing", FailingPapers, basename="failing")
