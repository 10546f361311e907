"""How errors that a user can mend leave a nerfstudio command: one line and exit code 1."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flowcam_ns.errors import FlowCamError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a FlowCamError inside the block into its message on stderr and exit code 1."""
    try:
        yield
    except FlowCamError as error:
        sys.stdout.flush()
        print(f"Error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
