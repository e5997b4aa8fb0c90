"""Numbers of any size in few bytes: LEB128 in its shortest form, as all formats here write it."""


def varint(number: int) -> bytes:
    """Return a number from 0 on as groups of 7 bits, low ones first; the last byte is below 128."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
