"The command line with a loopback device and nothing else, in a network namespace of its own."
import fcntl, socket, struct, sys

from linacodec_tier3.cli import main

GET, SET, UP = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    _, flags = struct.unpack("16sh", fcntl.ioctl(s, GET, struct.pack("16sh", b"lo", 0)))
    fcntl.ioctl(s, SET, struct.pack("16sh", b"lo", flags | UP))
sys.exit(main(sys.argv[1:]))
