#!/usr/bin/env bash
# A named FIFO refuses the non-blocking write that an anonymous pipe grants.
#
# Guess: pwritev2(2) with RWF_NOWAIT works on a FIFO as it does on a pipe, because the kernel has
# one implementation of both (fs/pipe.c), and S_ISFIFO of fstat(2) says the same of both.
#
# Seen (Linux 6.18.44): an anonymous pipe takes the write, and gives EAGAIN when it is full, on a
# blocking description. A FIFO from mkfifo(3), opened by its path, gives EOPNOTSUPP at once, empty
# or full: only pipe(2) marks its files as able to write without waiting. Terminals and files on
# ext4 and tmpfs give EOPNOTSUPP as well, a Unix stream socket takes it.
#
# Why it matters here: the descriptor of a log is often a FIFO of a supervisor or of a log shipper
# (`2> fifo`, `--error-logfile fifo`). A program that chooses its way of writing by S_ISFIFO alone
# loses every line there, or falls back to a write that waits for a reader. The file type does not
# tell them apart; the first result of the call does.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

uname -sr
python3 - "$scratch" <<'PYTHON'
import ctypes, errno, os, socket, stat, sys

libc = ctypes.CDLL(None, use_errno=True)
RWF_NOWAIT = 8

class IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]

libc.pwritev2.restype = ctypes.c_ssize_t
libc.pwritev2.argtypes = [ctypes.c_int, ctypes.POINTER(IoVec), ctypes.c_int, ctypes.c_int64, ctypes.c_int]

def write(descriptor, data=b"a line\n"):
    written = libc.pwritev2(descriptor, ctypes.byref(IoVec(data, len(data))), 1, -1, RWF_NOWAIT)
    return "written" if written == len(data) else errno.errorcode[ctypes.get_errno()]

def fill(descriptor):
    for _ in range(1000):
        answer = write(descriptor, b"x" * 4096)
        if answer != "written":
            return answer
    return "never full"

_, pipe = os.pipe()
path = os.path.join(sys.argv[1], "fifo")
os.mkfifo(path)
fifo = os.open(path, os.O_RDWR)
left, right = socket.socketpair()
assert stat.S_ISFIFO(os.fstat(pipe).st_mode) and stat.S_ISFIFO(os.fstat(fifo).st_mode)

seen = {"pipe": (write(pipe), fill(pipe)), "FIFO": (write(fifo), fill(fifo)), "Unix stream": (write(left.fileno()), fill(left.fileno()))}
for kind, (empty, full) in seen.items():
    print(f"{kind}: {empty} when empty, {full} when full")
expected = {
    "pipe": ("written", "EAGAIN"),
    "FIFO": ("ENOTSUP", "ENOTSUP"),
    "Unix stream": ("written", "EAGAIN"),
}
sys.exit(0 if seen == expected else "this has changed")
PYTHON
