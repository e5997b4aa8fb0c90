"""What a rate is, for everybody who tells one."""


def bpp(num_bytes: float, height: int, width: int) -> float:
    """Return bits per pixel of a whole file, or of the size that a model predicts for one."""
    return 8 * num_bytes / (height * width)
