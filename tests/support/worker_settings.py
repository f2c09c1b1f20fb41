"""Settings of a child process: those of the tests, changed by JSON in its environment."""

import json
import os

from tests.settings import *  # noqa: F403

globals().update(json.loads(os.environ["QUEUED_STORAGE_TEST_SETTINGS"]))
