"""Imported by the server of forks.py alone: sets Django up, once for all its forks."""

import django

django.setup()
