"""conffile: denyspam.conf as a file. Edge.

    read_settings(conf)   all that it says
    read_socket(conf)     where the daemon listens, no more

The second is for the commands: they answer at once, without what reads policies and filters, and still do when an edit
has broken another part of the file, which the running daemon does not know of.
"""

from __future__ import annotations

from denyspam.events import SettingsError
from denyspam.settings import Settings, parse, parse_socket

LARGEST = 1_000_000  # bytes; more than any configuration has


def read_settings(conf: str) -> Settings:
    """What the configuration file says. SettingsError for what is wrong with it."""
    return parse(_text(conf), conf)


def read_socket(conf: str) -> str:
    """The path of the daemon's socket. SettingsError where the file cannot be read that far."""
    return parse_socket(_text(conf), conf)


def _text(conf: str) -> str:
    try:
        with open(conf, "rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise SettingsError(f"this is larger than {LARGEST:,} bytes, which no configuration is", conf)
        return data.decode("utf-8")
    except OSError as error:
        advice = "; `denyspam setup` writes one, -c names another" if isinstance(error, FileNotFoundError) else ""
        raise SettingsError(f"the configuration cannot be read: {error.strerror}{advice}", conf) from error
    except UnicodeDecodeError:
        raise SettingsError("the configuration is no text in UTF-8", conf) from None
