"""Settings of a child process: those of the tests, and what its test hands down as JSON."""

import json
import os

from tests.settings import *  # noqa: F403

globals().update(json.loads(os.environ["QUEUED_STORAGE_TEST_SETTINGS"]))
