from django.urls import path

from queued_storage import metrics

urlpatterns = [path("metrics", metrics.view)]
