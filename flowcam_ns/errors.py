"""The one kind of error a user is meant to read."""


class FlowCamError(Exception):
    """Something about the input or the machine that the user can mend; its message is one clear line saying how."""
