"""Everything a caller may want to catch. Bugs stay plain Python exceptions.

Each message is written for the person at the keyboard: what was found, what is valid, what to do.
"""

import warnings


class Note(UserWarning):
    """How something was read where its own words left a choice; nothing is wrong."""


def note(text: str) -> None:
    """Say how something was read."""
    warnings.warn(text, Note, stacklevel=3)


class GraticuleError(Exception):
    """Base of all expected failures."""


class BadCoordinateError(GraticuleError, ValueError):
    """A latitude or longitude is out of range or not finite."""


class BadPhotoError(GraticuleError, ValueError):
    """The bytes are not a photo we can read.

    Attributes:
        reason: a short word for counting, one of ``graticule.photos.images.REASONS`` where a file was looked at.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both, so that it survives the way out of a worker process
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


class BadTableError(GraticuleError, ValueError):
    """A table of photos, points or predictions lacks what is needed."""


class BadRecipeError(GraticuleError, ValueError):
    """A setting is unknown, impossible, or contradicts another."""


class NotFetchedError(BadRecipeError):
    """Pretrained weights lie elsewhere, and no network reaches them."""


class LeakError(GraticuleError, ValueError):
    """Training has seen what a number would be measured on, so that it could not be called held out."""


class TooManyRefusedError(GraticuleError, ValueError):
    """More photos were refused than the stated share allows."""


class BundleError(GraticuleError):
    """A model bundle is missing, incomplete, changed, or from an incompatible version."""


class BadWeightsError(GraticuleError, ValueError):
    """Public weights are missing, are not laid out as their importer knows them, or would run code."""


class NotEnoughMemoryError(GraticuleError, MemoryError):
    """The run would not fit into the memory of this machine."""


class DeviceError(GraticuleError, RuntimeError):
    """A process or a machine that was to work with this one has ended, or is not there."""


class WriteError(GraticuleError, OSError):
    """A file could not be written whole; nothing half-written was left."""


class SourceError(GraticuleError, OSError):
    """A service of photos cannot be reached, refuses the token, or does not speak as documented."""
