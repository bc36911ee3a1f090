"""Pickles written by hand or made to call something, as tests of a safe reader want them."""


class Call:
    """Pickles as the call ``function(*args)``, with a state to BUILD where one is given."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def the_name(module: str, attribute: str) -> bytes:
    """Protocol 4's STACK_GLOBAL, which follows dots."""
    return text(module) + text(attribute) + b"\x93"


def program(*body: bytes) -> bytes:
    return b"\x80\x04" + b"".join(body) + b"."


def touch(path) -> str:
    return f"touch {path}"
