"""The command ``queued_storage``: one class per verb."""
