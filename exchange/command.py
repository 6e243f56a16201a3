"""How every command of the project starts and ends: instant help, one clear line for a bad setting, exit codes.

Exit 2: a setting or argument is wrong and nothing was started. Exit 1: the run failed. 130/143: stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from exchange.settings import SettingError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
"""A disk that is full, over its quota, read-only, somebody else's, or that takes no larger file."""


class RunError(RuntimeError):
    """A run that could not go on; the text says what happened and how to go on."""


def run_command(name: str, body: Callable[[], int]) -> int:
    """Call a command's body and turn what the user can mend into one line on stderr and an exit code."""
    try:
        return body()
    except SettingError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = error.filename or "a file"
        print(f"{name}: {where} cannot be written ({error.strerror}); mend that and start it again, what is whole is kept", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 130
