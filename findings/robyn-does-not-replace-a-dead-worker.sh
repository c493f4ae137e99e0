#!/usr/bin/env bash
# A robyn server whose process is killed goes on with one process less, for good and in silence.
#
# Guess: with --processes 2 robyn replaces a process that has died, as a pre-fork server does, or it
# ends as a whole, as granian does unless --respawn-failed-workers is given.
#
# Seen (robyn 0.88.0, CPython 3.11.7), SIGKILL to one of two processes: the other serves all
# requests from then on. Ten seconds later there is no new process, the log has no line about the
# dead one, and the parent lives. When the other is killed as well, the parent ends with status 0.
#
# Why it matters here: who measures what a crash costs compares with servers that do nothing about
# it. In remuda each slot gets a new worker, after a back-off if it crashes again and again (D17),
# and /readyz fails while there is none.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check robyn==0.88.0

cat > pid.py <<'PYTHON'
import os, sys
from robyn import Robyn

port = int(os.environ["PID_PORT"])
app = Robyn(__file__)

@app.get("/")
def pid(request):
    return str(os.getpid())

app.start(host="127.0.0.1", port=port)
PYTHON

python3 - <<'PYTHON'
import os, signal, socket, subprocess, sys, time, urllib.request

def pid():
    try:
        return int(urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).read())
    except OSError:
        return None

def until(what, seconds=30):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := what():
            return found
        time.sleep(0.05)
    return None

with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
log = open("log", "w")
environment = {**os.environ, "PID_PORT": str(port)}
command = ["venv/bin/python", "pid.py", "--processes", "2"]
server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
other = None
try:
    first = until(pid) or sys.exit("robyn did not serve")
    other = until(lambda: (found := pid()) != first and found) or sys.exit("there is one process only")
    before = len(open("log").read())
    os.kill(first, signal.SIGKILL)
    end = time.monotonic() + 10
    answered = set()
    while time.monotonic() < end:
        answered.add(pid())
        time.sleep(0.05)
    answered.discard(None)
    said = open("log").read()[before:]
    print(f"10 s after the first was killed: {len(answered)} process answers, the log says {said!r}")
    os.kill(other, signal.SIGKILL)
    time.sleep(3)
    after, parent = pid(), server.poll()
    print(f"3 s after the second was killed: {after or 'nobody'} answers, the parent {'lives' if parent is None else f'has ended with status {parent}'}")
    seen = (answered == {other}, said != "", after, parent)
finally:
    server.kill()
sys.exit(0 if seen == (True, False, None, 0) else f"this has changed: {seen}")
PYTHON
