#!/usr/bin/env bash
# gunicorn's asgi worker continues to serve for up to a second after --max-requests, and ends each connection meanwhile.
#
# Guess: a worker that has served --max-requests requests stops accepting, finishes what is in
# flight and is replaced. With 50 and four connections it has answered 50 to 54 requests by then;
# gthread of the same release does so (52 or 53).
#
# Seen (gunicorn 27.0.1, -k asgi -w 1 --max-requests 50, Python 3.11, four clients without
# noticeable pauses): the first worker answered 518 requests, the second 682. The limit is noticed
# by a loop that looks once a second; until then the worker goes on accepting, answers every request
# with `Connection: close`, and logs the line "Autorestarting worker after current request." each
# time (1,102 lines for 1,200 requests); with one client it answered 1,189. Keep-alive is thus off
# for up to a second of each worker's life, and under load the limit is exceeded tenfold.
#
# Why it matters here: operators who come from gunicorn's asgi worker have seen bursts of closed
# connections around each recycle, and may have sized --max-requests by its real effect. remuda
# replaces the worker at the configured count, and hands idle connections over.
set -euo pipefail
scratch=$(mktemp -d)
server=
finish() {
    if [[ -n $server ]]; then kill -KILL "$server" 2> /dev/null || true; wait "$server" 2> /dev/null || true; fi
    rm -rf "$scratch"
}
trap finish EXIT
cd "$scratch"
python3 -m venv env
env/bin/pip install --quiet gunicorn==27.0.1

cat > t.py <<'PY'
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    pid = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2"), (b"x-pid", pid)]})
    await send({"type": "http.response.body", "body": b"ok"})
PY
cat > ask.py <<'PY'
import http.client, socket, sys, time

def ask():
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    while True:
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        yield response.getheader("x-pid"), response.will_close
        if response.will_close:
            return

port = int(sys.argv[1])
until = time.monotonic() + 10
while True:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        break
    except OSError:
        if time.monotonic() > until:
            sys.exit("the server does not come up")
        time.sleep(0.05)
first, served, closed = None, 0, 0
until = time.monotonic() + 20
while time.monotonic() < until:
    try:
        for pid, close in ask():
            first = first or pid
            if pid != first:
                break
            served += 1
            closed += close
        else:
            continue
        break
    except (OSError, http.client.HTTPException):
        time.sleep(0.02)
print(f"--max-requests 50: the first worker answered {served} requests, {closed} of them with Connection: close")
if served < 60 or closed < 10:
    sys.exit("this has changed")
PY
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
env/bin/gunicorn -k asgi -w 1 --max-requests 50 --no-control-socket -b "127.0.0.1:$port" t:app > log 2>&1 &
server=$!
python3 ask.py "$port"
echo "lines \"Autorestarting worker\": $(grep -c Autorestarting log)"
