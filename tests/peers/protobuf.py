"""The few protobuf and gRPC bytes the peer needs, encoded by hand.

Only what a unary call with strings and one Struct takes; nothing generated, nothing shared.
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
        yield tag >> 3, value


def _read_varint(message, at):
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at


def grpc_frame(message):
    """A gRPC message: not compressed, with its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def grpc_message(body):
    """The message in the body of a unary answer."""
    if len(body) < 5 or body[0] != 0:
        raise ValueError(f"a gRPC body of {len(body)} bytes without a plain message")
    length = int.from_bytes(body[1:5], "big")
    if len(body) != 5 + length:
        raise ValueError("a gRPC body whose length does not fit")
    return body[5:]
