"""Run a module where there is no network but the machine's own, on the installed package instead of the checkout's.

unshare --map-root-user --net PYTHON tools/offline.py -m pytest tests/test_page.py
"""

import fcntl
import runpy
import socket
import struct
import sys
from pathlib import Path

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:  # a new network's own interface is down
        fcntl.ioctl(any_, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    sys.path.pop(0)
    import graticule

    here = Path(graticule.__file__)
    if others or here.is_relative_to(Path(__file__).parents[1] / "graticule"):
        sys.exit(f"this is to run under unshare --net, on an installed package; found {', '.join(others)} and {here}")
    print(f"no network; {here}")
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
