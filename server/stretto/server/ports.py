"""Which process holds a port, so that "address in use" can be answered with a name."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from stretto.engine.errors import StrettoError
from stretto.server.quantities import Address

LISTENING = "0A"  # as the kernel's table of sockets writes it


class CannotListen(StrettoError):
    """An address that the server was told to listen on cannot be had."""

    reason = "CANNOT_LISTEN"


def check_free(address: Address, flag: str) -> None:
    """Raise CannotListen, with who is in the way and what to do, unless the address can be listened on."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        socket.create_server((address.host, address.port), family=family, reuse_port=False).close()
    except OSError as error:
        raise cannot_listen(address, flag, error) from None


def cannot_listen(address: Address, flag: str, error: OSError) -> CannotListen:
    if error.errno != errno.EADDRINUSE:
        return CannotListen(f"cannot listen on {address}: {error.strerror or error}. Choose another with {flag}.")
    other = Address(address.host, address.port + 1 if address.port < 65535 else address.port - 1)
    held_by = holder(address.port) or "another process"
    return CannotListen(f"{address} is held by {held_by}.\nStop that, or choose another:  {flag} {other}")


def holder(port: int) -> str | None:
    """The process that listens on a TCP port, or None where the kernel does not tell us."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in Path("/proc").glob("[0-9]*"):
        if sockets & set(_links(process / "fd")):
            return f"process {process.name} ({_command(process)})"
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]


def _links(folder: Path) -> Iterator[str]:
    """Where the links of a folder point; nothing for a process that is not ours or is gone."""
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            yield str(entry.readlink())
        except OSError:
            continue


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "gone by now"
    return " ".join(word.decode(errors="replace") for word in words[:4]).strip() or "a process without a command line"
