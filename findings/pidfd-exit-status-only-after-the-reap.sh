#!/usr/bin/env bash
# A pidfd becomes readable when its process ends, but has the exit status only after the parent has reaped the process.
#
# Guess: since Linux 6.15 ioctl(PIDFD_GET_INFO) with PIDFD_INFO_EXIT gives the exit status of a
# process to every holder of its pidfd. A pidfd becomes readable when the process ends, so the
# status can be read from then on.
#
# Seen (Linux 6.18.44): between the end and the reap the pidfd is readable, the ioctl succeeds, and
# the reply simply lacks the bit PIDFD_INFO_EXIT; the field exit_code is 0, which reads as "ended by
# exit(0)" where the process was in fact killed. waitid(WNOWAIT) of the parent has the status at
# that time. After the reap poll adds POLLHUP, the reply has PIDFD_INFO_EXIT and exit_code 9, and
# lacks the pid and the credentials that it had until then.
#
# Why it matters here: a process that waits for a worker's end by a pidfd without being its parent
# can act on readable, but cannot tell a crash from an orderly exit; the status comes with POLLHUP,
# when the arbiter has reaped the worker. A reply without the bit must not be taken for status 0.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cat > "$scratch/run.py" <<'PY'
import fcntl, os, select, signal, struct, sys

PID, EXIT, SIZE = 1, 1 << 3, 72
GET_INFO = 3 << 30 | SIZE << 16 | 0xFF << 8 | 11  # _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info), 72 bytes since 6.16

def info(pidfd):
    reply = bytearray(struct.pack("<Q", PID | EXIT) + bytes(SIZE - 8))
    fcntl.ioctl(pidfd, GET_INFO, reply)
    mask, _, pid = struct.unpack_from("<QQI", reply)
    return bool(mask & EXIT), struct.unpack_from("<i", reply, 60)[0], pid

print("Linux", os.uname().release)
child = os.fork()
if child == 0:
    signal.pause()
pidfd = os.pidfd_open(child)
poll = select.poll()
poll.register(pidfd, select.POLLIN)
os.kill(child, signal.SIGKILL)
ended = poll.poll(10_000)[0][1]
before = info(pidfd)
status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT).si_status
print(f"ended, not reaped: poll {ended:#x}, status known {before[0]}, exit_code {before[1]}, pid {before[2] == child}; waitid: {status}")
os.waitpid(child, 0)
reaped = poll.poll(0)[0][1]
after = info(pidfd)
print(f"reaped: poll {reaped:#x}, status known {after[0]}, exit_code {after[1]}, pid {after[2] == child}")
same = (ended, before[:2], status, reaped, after[:2]) == (
    select.POLLIN, (False, 0), 9, select.POLLIN | select.POLLHUP, (True, 9))
if not same:
    sys.exit("this has changed, or the kernel is older than 6.16")
PY
python3 "$scratch/run.py"
