"""The few protobuf and gRPC bytes the peer needs, encoded by hand.

Only what unary calls and streams of plain messages take; nothing generated, nothing shared.
"""


def varint(number):
    """Base-128 number, least significant group first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def number_field(field, number):
    """A varint field."""
    return varint(field << 3) + varint(number)


def bytes_field(field, value):
    """A length-delimited field."""
    if isinstance(value, str):
        value = value.encode()
    return varint(field << 3 | 2) + varint(len(value)) + value


def string_struct(entries):
    """A google.protobuf.Struct whose values are strings (Value.string_value is field 3)."""
    out = b""
    for key, value in entries.items():
        out += bytes_field(1, bytes_field(1, key) + bytes_field(2, bytes_field(3, value)))
    return out


def fields(message):
    """Yields (field number, value) of a message; numbers as int, the rest as bytes."""
    for field, _, value in parts(message):
        yield field, value


def parts(message):
    """Yields (field number, wire type, value) of a message."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _read_varint(message, at)
        elif kind == 2:
            length, at = _read_varint(message, at)
            value, at = message[at : at + length], at + length
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"wire type {kind}")
        if at > len(message):
            raise ValueError(f"field {tag >> 3} is cut off")
        yield tag >> 3, kind, value


def numbers(packed):
    """The numbers of a packed field."""
    found, at = [], 0
    while at < len(packed):
        number, at = _read_varint(packed, at)
        found.append(number)
    return found


def _read_varint(message, at):
    number = shift = 0
    while True:
        if at >= len(message):
            raise ValueError("a number is cut off")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at


def grpc_frame(message):
    """A gRPC message: not compressed, with its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def grpc_frames(body):
    """Takes the whole messages out of a stream's data (a bytearray); the rest stays."""
    found = []
    while len(body) >= 5:
        length = int.from_bytes(body[1:5], "big")
        if body[0] != 0:
            raise ValueError("a compressed gRPC message")
        if len(body) < 5 + length:
            break
        found.append(bytes(body[5 : 5 + length]))
        del body[: 5 + length]
    return found


def grpc_message(body):
    """The message in the body of a unary answer."""
    if len(body) < 5 or body[0] != 0:
        raise ValueError(f"a gRPC body of {len(body)} bytes without a plain message")
    length = int.from_bytes(body[1:5], "big")
    if len(body) != 5 + length:
        raise ValueError("a gRPC body whose length does not fit")
    return body[5:]
