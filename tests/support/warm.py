"""Set Django up once for all forks. Only the server in forks.py imports this module."""

import django

django.setup()
