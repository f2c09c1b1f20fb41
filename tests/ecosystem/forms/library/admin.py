from django.contrib import admin
from import_export.admin import ImportExportModelAdmin

from .models import Draft, Letter, Memo, Note, Paper


@admin.register(Paper, Letter)
class PaperAdmin(ImportExportModelAdmin):
    list_display = ["author", "file"]


admin.site.register([Draft, Memo, Note])
