#!/usr/bin/env bash
# When one of several hypercorn workers is killed, the whole server stops, and reports success.
#
# Guess: with --workers 2 hypercorn replaces a worker that has died, as gunicorn and uvicorn do. If
# not, its exit status tells that something went wrong.
#
# Seen (hypercorn 0.18.0, uvicorn 0.54.0, CPython 3.11.7), SIGKILL to one of two workers, as the
# out-of-memory killer sends it: hypercorn ends the other worker and itself within a second, with
# status 0 and not a line in its log. uvicorn serves on, with a new worker beside the old one.
#
# Why it matters here: an operator who comes from hypercorn may rely on Restart=always, because
# Restart=on-failure (systemd.service(5)) does not start a server again that ended with status 0. A
# remuda server never ends because of its workers (D17), and a status of 0 means that it was told to
# stop and has drained.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check hypercorn==0.18.0 uvicorn==0.54.0

cat > pid.py <<'PYTHON'
import os

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
PYTHON

python3 - <<'PYTHON'
import os, signal, socket, subprocess, sys, time, urllib.request

def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

def pid(port):
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

def serve(name, *options):
    port = free_port()
    bind = [option.format(port=port) for option in options]
    log = open(f"{name}.log", "w")
    server = subprocess.Popen([f"venv/bin/{name}", "--workers", "2", *bind, "pid:app"], stderr=log, stdout=log)
    try:
        first = until(lambda: pid(port))
        if not first:
            sys.exit(f"{name} did not serve")
        other = until(lambda: (found := pid(port)) != first and found)
        before = len(open(f"{name}.log").read())
        os.kill(first, signal.SIGKILL)
        third = until(lambda: server.poll() is not None or (pid(port) or first) not in (first, other), 15)
        status = server.poll()
        said = open(f"{name}.log").read()[before:]
        outcome = f"ended with status {status}" if status is not None else "serves on, with a new worker" if third else "serves on"
        print(f"{name}: {outcome}; its log since the kill: {said!r}")
        return status, said == "" if status is not None else None
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()

seen = [serve("hypercorn", "--bind", "127.0.0.1:{port}"), serve("uvicorn", "--port", "{port}", "--log-level", "warning")]
sys.exit(0 if seen == [(0, True), (None, None)] else f"this has changed: {seen}")
PYTHON
