"""denyspam: mail logs in, firewall bans out."""

__version__ = "0.1.0"
