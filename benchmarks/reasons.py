"""Why rows miss their goals, as far as a profile told."""

UNKNOWN = "Not profiled yet."  # a test finds it on the page

# Reasons why rows may miss their goal, by their key or a prefix of it
REASONS: dict[str, str] = {
    "processes": "An upload takes the S3 server about as much processor time as the worker. Both "
    "share two cores with the proxy that adds the latency, and with other programs.",
    "moves.drop-old": "Both sides are limited by Python, which runs one thread at a time. For each "
    "file, the package also claims the row and its old copy, compares the object at the new place "
    "with the ledger, and records that the copy is gone.",
    "reading.local_path": "The rounds of one side differ by more than the two sides do.",
    "looks.template": "A third of the time is Django's cache, which checks each key and unpickles "
    "each value, or one query of the ORM. Another fifth creates the file objects of the fields "
    "before the template does, and asks each for its storage.",
    "looks.prefetched": "As for urls(), almost half of the time is Django's, for its cache or for "
    "one query of the ORM.",
    "looks.page": "Half of the time is Django's: its cache checks each key and unpickles each "
    "value or, without a cache, the ORM compiles a query and converts the rows. The rest is a few "
    "microseconds for each URL.",
    "passes.status": "A status takes many queries, most of which read a few rows. The database "
    "takes a sixth of the time, however many files there are. Most of the rest is Django, which "
    "builds and compiles the queries.",
    "imports": "Almost half of this time is one full run of Python's garbage collector, which "
    "creating the app's classes triggers. The rest is spread over its modules.",
    "manysteps": "The steps of a small picture take 35 ms. For each file, the package executes six "
    "statements in four transactions, and renames it twice, with processor caches that the steps "
    "have left cold. On photos, this hardly counts: see the row of 'steps'.",
    "rowsize": "The name is in a row twice, since processes of the version before need the name on "
    "the remote. Half of the rest are the entries of four indexes, two of which change with each "
    "state.",
    "saves.large": "Without the extra 'checksums', zlib.crc32 alone takes half as long as "
    "FileSystemStorage.save().",
    "saves.python": "No single cause stands out. The statement and Django's cursor take a fifth of "
    "this time, creating the final name and removing the hidden file another fifth, and checking "
    "whether the name is free a tenth. Other processes that use the same processor caches add up "
    "to a half.",
    "saves.s3.0": "This is close to the limit: FileSystemStorage.save() and a plain INSERT, "
    "without this package, aren't much faster. Creating a file takes more than half of the time.",
    "saves.s3.30": "After 70 ms of waiting, the processor caches are cold, so a save takes twice "
    "as long as the next ones. The same is true of FileSystemStorage.save() alone.",
    "looks.transferred.domain.default": "The package adds a few microseconds: it normalizes the "
    "name, builds a cache key that is valid for any name, and handles a cache that is down. The "
    "key is longer than that of the other side, and Django's cache checks each of its characters.",
    "saves.fsync": "Before the disk confirms a file, it also writes the data of other processes.",
    "serving.django": "The view looks up the file in the ledger twice: before and after it opens "
    "the local copy, which may have been evicted meanwhile. These two queries take almost half of "
    "the view's time, and headers and conditions another third. Django's own view asks no "
    "database.",
    "serving.nginx": "Each request still passes Python. A view of Django that only returns the "
    "header is limited by this, too: see 'a view without the package' in the details of the row.",
    "workers.boto3": "Both are limited by Python, which runs one thread at a time. The worker "
    "spends most of its time on other work than uploading: it claims files, reads them, compares "
    "checksums, and updates the ledger.",
    "workers.plain": "Both are limited by Python, which runs one thread at a time, and both call "
    "put_object. The worker also claims files, reads them, compares checksums, and updates the "
    "ledger.",
    "workers.ancestor": "With a latency of 30 ms, threads spend most of their time waiting for the "
    "one request per file. Eight threads cannot complete more than 240 requests per second.",
    "workers.rclone": "All cores are busy, and more than half of their time goes to the server. Of "
    "the rest that the worker uses, claims and updates of the ledger, which rclone doesn't have, "
    "take almost half, and uploading with obstore takes a fifth.",
    "workers.s5cmd": "All cores are busy, and more than half of their time goes to the server. "
    "s5cmd is compiled, keeps no ledger, and compares nothing. Of the time that the worker's "
    "Python code uses, a fifth is the upload with obstore.",
    "workers.postgres": "See the row with the ledger in SQLite. The processes of PostgreSQL use "
    "the same cores, too, and each statement is sent to them.",
    "workers.processor": "Claims and updates of the ledger take almost half of this time, and "
    "uploading with obstore takes a fifth.",
    "workers.generic": "With the generic uploader, the worker first asks the remote whether the "
    "name is free, so that it doesn't overwrite other files. This is one request more than save() "
    "and size() need.",
    "workers.large.memory": "boto3 uses ten connections, each with a thread and its buffers. The C "
    "library doesn't return all of the freed memory.",
    "workers.large": "Both upload with the same calls. The worker adds only a few requests that "
    "take milliseconds. The ratio varies by more than that from run to run.",
}


def known_reason(key: str) -> str:
    """Return the reason of the row itself, or of the longest prefix of its key."""
    parts = key.split(".")
    known = (REASONS.get(".".join(parts[:count])) for count in range(len(parts), 0, -1))
    return next(filter(None, known), UNKNOWN)
