"""Owns the error of setting up a way for IP packets: a TUN device, its routes, a helper program."""


class DeviceError(Exception):
    """The system refused, or lacks a part; raised while setting up, never on the packet path.

    Attributes:
        message: what could not be done, and why.
        hint: the next step, where there is one.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
