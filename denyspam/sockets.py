"""sockets: where a unix socket is to be made: what a killed process left there gives way. Edge."""

from __future__ import annotations

import errno
import os
import socket
import stat


def clear(path: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    """Removes a socket's file that nobody listens at. Raises OSError where somebody does (EADDRINUSE), or where it is
    another file (ENOTSOCK, also a link), which stays."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.ENOTSOCK, "another file is there, which is no socket", path)
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)  # whoever listens there may take nobody: BlockingIOError, and that is an answer
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # left by one that was killed
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
    raise OSError(errno.EADDRINUSE, "another program reads there", path)
