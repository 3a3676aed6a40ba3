"""What systemd is told: sd_notify(3) in one datagram, and how often its watchdog wants to hear from us."""

from __future__ import annotations

import os
import socket


class Notifier:
    """The socket that systemd named in ``NOTIFY_SOCKET``; without one every call does nothing."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")         # popped: the roles must not speak for the service
        watchdog = os.environ.pop("WATCHDOG_USEC", "")
        for_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_interval_s = int(watchdog) / 2e6 if watchdog.isdigit() and for_us else None

    def tell(self, *assignments: str) -> None:
        """Send assignments such as ``READY=1`` or ``STATUS=...``; a service manager that is gone is no fault."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto("\n".join(assignments).encode(), address)
            except OSError:
                self._address = ""
