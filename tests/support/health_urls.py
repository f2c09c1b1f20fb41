from django.urls import path
from health_check.views import HealthCheckView

view = HealthCheckView.as_view(
    checks=[("queued_storage.health_check.QueuedFiles", {"max_age": 10, "max_failed": 0})]
)
urlpatterns = [path("", view)]
