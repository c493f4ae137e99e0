#!/usr/bin/env bash
# With --workers, uvicorn reacts to TERM only after its workers have built the application, and reports a clean stop.
#
# Guess: uvicorn's workers are plain processes of multiprocessing, without handlers before the
# server starts, so a TERM that their parent passes on during the import ends them at once, as it
# ends uvicorn without --workers.
#
# Seen (uvicorn 0.54.0, gunicorn 27.0.1, CPython 3.11.7), an application whose import takes 8 s,
# TERM once it has begun: uvicorn without --workers is ended by the signal within a tenth of a
# second, with status -15; with --workers 2 it goes on for the rest of the import, starts and stops
# the unneeded application, and ends with status 0. gunicorn waits for its import as well.
#
# Why it matters here: with uvicorn, the stop timeout in an operator's unit file must cover the
# import. In remuda, a worker that was never ready holds up no stop (D21), whatever its application
# is doing; the difference is worth a test.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check uvicorn==0.54.0 gunicorn==27.0.1

cat > slow.py <<'PYTHON'
import os, time

open(f"began-{os.getpid()}", "w").close()
time.sleep(8)

async def app(scope, receive, send):
    pass
PYTHON

python3 - <<'PYTHON'
import glob, os, signal, subprocess, sys, time

def stop(*command):
    for begun in glob.glob("began-*"):
        os.unlink(begun)
    server = subprocess.Popen([f"venv/bin/{command[0]}", *command[1:], "slow:app"], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not glob.glob("began-*"):
        if server.poll() is not None or time.monotonic() > limit:
            sys.exit(f"{command[0]} did not import the application")
        time.sleep(0.01)
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    try:
        status = server.wait(60)
    finally:
        server.kill()
    took = time.monotonic() - began
    print(f"{' '.join(command)}: status {status}, {took:.1f} s after TERM")
    return status, took > 4

seen = [
    stop("uvicorn", "--port", "0"),
    stop("uvicorn", "--port", "0", "--workers", "2"),
    stop("gunicorn", "--bind", "127.0.0.1:0"),
]
sys.exit(0 if seen == [(-15, False), (0, True), (0, True)] else "this has changed")
PYTHON
