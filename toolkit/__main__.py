"""`python -m toolkit`, which is what launchers start."""

import os
import sys
from typing import NoReturn

from toolkit.cli import main


def leave(code: int) -> NoReturn:
    """End this process without the interpreter's farewell, in which gloo's threads abort it now and then.

    Everything is written and the group is ended by then; an abort would only look like a failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if os.environ.get("WORLD_SIZE", "1") == "1":
        main(prog_name="toolkit")
    try:
        main(prog_name="toolkit")
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else int(end.code is not None))
