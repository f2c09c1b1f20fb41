import time

from queued_storage.steps import PASS, REJECT, Outcome, Step, StepFile

# The text that scanners take for a virus, in two parts, so that they do not find it in this file
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
SECONDS = 2  # so that people see the state of a file that is being scanned


class Scan(Step):
    """Stands for queued_storage.steps.clamav.ClamAV, which needs a running clamd."""

    def run(self, file: StepFile) -> Outcome:
        time.sleep(SECONDS)
        if EICAR in b"".join(file.chunks()):
            return REJECT("The scanner found EICAR.")
        return PASS
