"""The exception tree: every error a user of lictor can meet, and nothing else.

An error names the thing that is wrong (file, field, shape) and the remedy. The command line prints
a `LictorError` as one line and exits 1; any other exception is a bug.
"""


class LictorError(Exception):
    """Base of every error that lictor raises on purpose."""


class ConfigError(LictorError, ValueError):
    """A recipe or an argument is wrong: unknown key, wrong type, value out of range."""


class DataError(LictorError, ValueError):
    """An image, a folder or an array cannot be used as input, or an output cannot be written."""


class StorageError(DataError):
    """A storage does not give what it is said to hold: it is a reason to stop, not to skip."""


class CheckpointError(LictorError):
    """A checkpoint or codec file is missing, damaged, or belongs to another model."""


class TimeLimitError(LictorError):
    """A program of somebody else took longer than it may."""


class BitstreamError(LictorError):
    """A compressed file cannot be decoded."""


class NotABitstreamError(BitstreamError):
    """The bytes do not begin like a lictor file."""


class UnsupportedVersionError(BitstreamError):
    """The file was written in a format version that this release does not read."""


class TruncatedError(BitstreamError):
    """The file ends before its header says it should."""


class CorruptError(BitstreamError):
    """The file has its full length, but its contents fail a check."""


class ModelMismatchError(BitstreamError):
    """The file was made by another codec than the one asked to decode it."""


class DesyncError(BitstreamError):
    """Decoding gave other symbols than the encoder wrote: the two machines disagree."""
