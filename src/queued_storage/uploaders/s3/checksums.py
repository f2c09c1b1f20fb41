"""The checksums of S3 that this package computes."""

import base64
import hashlib
import zlib
from typing import NamedTuple

CRC32 = "CRC32"
SHA256 = "SHA256"
ALGORITHMS = (CRC32, SHA256)


class Sum(NamedTuple):
    algorithm: str
    value: str  # encoded as S3 does

    @property
    def parameter(self) -> str:
        """Its name in the parameters and answers of boto3."""
        return f"Checksum{self.algorithm}"

    @property
    def header(self) -> str:
        return f"x-amz-checksum-{self.algorithm.lower()}"


def sum_of(algorithm: str, data: bytes) -> Sum:
    if algorithm == SHA256:
        return Sum(SHA256, base64.b64encode(hashlib.sha256(data).digest()).decode())
    return encoded(zlib.crc32(data))


def encoded(crc32: int) -> Sum:
    return Sum(CRC32, base64.b64encode(crc32.to_bytes(4, "big")).decode())


def as_recorded(checksum: str) -> str:
    """Return what the ledger records for a CRC-32 that is encoded as S3 does."""
    return f"crc32:{base64.b64decode(checksum).hex()}"


def crc32_in(recorded: str) -> int:
    """Return the CRC-32 that the ledger records."""
    return int(recorded.removeprefix("crc32:"), 16)
