"""The table in docs/remotes.md with the result of each check for each remote."""

from collections.abc import Iterable
from pathlib import Path

from queued_storage.operations.contract import CHECKS, CLEAN_UP, Finding

PAGE = Path(__file__).parents[3] / "docs" / "remotes.md"
COLUMNS = {
    "s3": "S3",
    "azure": "Azure",
    "google": "Google",
    "sftp": "SFTP",
    "ftp": "FTP",
    "renaming": "renaming",
    "disk": "disk",
    "memory": "memory",
}


def cells(findings: Iterable[Finding]) -> dict[str, str]:
    """Return the cells of the column of one remote, by check."""
    return {
        found.check: f"**{found.outcome}**" if found.is_problem else found.outcome
        for found in findings
    }


def documented(remote: str) -> dict[str, str]:
    return {check: row.get(remote, "") for check, row in _read().items()}


def write(remote: str, findings: Iterable[Finding]) -> None:
    """Write the column of one remote to the page."""
    table = {check: _read().get(check, {}) for check in (*CHECKS, CLEAN_UP)}
    for check, cell in cells(findings).items():
        table[check][remote] = cell
    lines = [_line("check", COLUMNS.values()), _line("---", ["---"] * len(COLUMNS))]
    for check, row in table.items():
        lines.append(_line(f"`{check}`", [row.get(remote, "") for remote in COLUMNS]))
    before, _old, after = _parts()
    PAGE.write_text("\n".join([*before, *lines, *after]) + "\n")


def _line(first: str, rest: Iterable[str]) -> str:
    return f"| {' | '.join([first, *rest])} |"


def _read() -> dict[str, dict[str, str]]:
    _before, lines, _after = _parts()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0].strip("`"): dict(zip(COLUMNS, row[1:], strict=True)) for row in rows}


def _parts() -> tuple[list[str], list[str], list[str]]:
    """Return the lines before the table, the lines of the table, and the lines after it."""
    lines = PAGE.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| check "))
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    return lines[:start], lines[start:end], lines[end:]
