"""The error tree. Every error says what was found, what was wanted and the way out, and carries the exit code.

EdgecnnError                exit 2
|-- UsageError              exit 2   a flag, a recipe or a combination that cannot work
|-- DataError               exit 2   pictures, labels or splits that cannot be used
|-- BundleError             exit 2   a bundle that is not one, is damaged, or does not fit
|-- ModelError              exit 2   an unknown model, weights that do not match, a layer with no counterpart
|-- MissingPackageError     exit 2   an optional package is not installed
|-- RuntimeFailure          exit 2   an engine refused or broke
|-- WriteError              exit 2   a file could not be written: the disk is full, the folder read-only
|-- GateError               exit 3   parity or accuracy missed its threshold
|-- DeviceError             exit 4   a device cannot be reached
|-- InconclusiveError       exit 5   the measurement did not settle
`-- StoppedError            exit 143 SIGTERM asked edgecnn to end; it goes on when run again
"""

from __future__ import annotations

from typing import ClassVar


class EdgecnnError(Exception):
    """Base of all errors that a user can cause or cure. ``hint`` is the way out, one line."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """What was found and wanted, then the way out on a line of its own."""
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(EdgecnnError):
    """A flag, a recipe or a combination of them that cannot work."""


class DataError(EdgecnnError):
    """Pictures, labels or splits that cannot be used; lists every problem found, not only the first."""


class BundleError(EdgecnnError):
    """A folder that is not a bundle, is damaged, or does not fit the request."""


class ModelError(EdgecnnError):
    """An unknown model, weights that do not match it, or a layer that has no counterpart in a format."""


class MissingPackageError(EdgecnnError):
    """A package that is not installed; the hint says how to install it."""


class RuntimeFailure(EdgecnnError):
    """An engine refused a file or broke while running it."""


class WriteError(EdgecnnError):
    """A file that could not be written; what was there before is still there."""


class GateError(EdgecnnError):
    """Parity or accuracy missed its threshold."""

    exit_code = 3


class DeviceError(EdgecnnError):
    """A device cannot be reached."""

    exit_code = 4


class InconclusiveError(EdgecnnError):
    """The measurement did not settle within its budget."""

    exit_code = 5


class StoppedError(EdgecnnError):
    """SIGTERM asked edgecnn to end, and it did so with everything whole. Not a mistake: there is nothing to cure."""

    exit_code = 143
    """128 + 15, what a shell reports for a process that SIGTERM ended."""
