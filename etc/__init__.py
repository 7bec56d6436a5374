"""The files of etc/ as they are installed: text for `denyspam setup` to write. No code."""
