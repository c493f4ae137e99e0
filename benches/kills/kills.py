#!/usr/bin/env python3
"""What clients see of killed workers: `kills.py remuda|gunicorn|puma|nginx [--kills 100]`.

Starts a server with 8 workers on a port of the loopback interface. 32 clients send a request that
takes its handler 5 ms, wait for the response, and send the next one on the same connection; 200
connections have had one response and rest. Every 0.2 s a random worker that is older than 1.3 s is
killed with SIGKILL. Prints a row of a table:

- answered: complete responses with status 200
- told: complete responses with status 500 to 599. The client reads them and connects again
- lost in flight: a request was sent, and the connection ended before the whole response had come,
  or nothing came for 20 s
- refused: connects that failed; they are tried again
- idle lost: of the 200 connections, those that had ended by the end of the run, or on which a last
  request is not answered with 200

A request is lost only once: a client whose connection ended connects again and goes on. No client
repeats a request, although some libraries would.

To install the servers, on Debian:

    cargo build --release -p remuda         # or REMUDA=path/to/remuda
    pip install gunicorn                    # or GUNICORN=path/to/gunicorn
    apt-get install puma                    # or gem install puma
    apt-get install nginx-light

gunicorn and puma run with 4 threads a worker, and their handlers sleep for 5 ms. remuda runs its
built-in application, `/sleep?ms=5`, on the backend that --backend names. nginx has no handler that
waits: it returns a constant, so that few requests are in flight at any moment. Python 3.9 or later,
standard library only; Linux, because workers are found in /proc.
"""

import argparse
import asyncio
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

WORKERS = 8
BUSY = 32
IDLE = 200
OLD_ENOUGH = 1.3
PATIENCE = 20

ROOT = pathlib.Path(__file__).resolve().parents[2]

WSGI = """
import time
def application(environ, start_response):
    time.sleep(0.005)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"hello\\n"]
"""

RACK = """
run lambda { |env| sleep 0.005; [200, { "Content-Type" => "text/plain", "Content-Length" => "6" }, ["hello\\n"]] }
"""

NGINX = """
daemon off;
pid nginx.pid;
error_log error.log;
worker_processes {workers};
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_timeout 3600s;
    keepalive_requests 1000000000;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 "hello\\n"; }} }}
}}
"""


def command(server, port, directory, options):
    """The command line of a server, after its files were written to `directory`."""
    address = f"127.0.0.1:{port}"
    if server == "remuda":
        program = os.environ.get("REMUDA", ROOT / "target/release/remuda")
        return [program, "-b", address, "-w", str(WORKERS), "-k", options.backend, "--keep-alive", "3600", *options.option]
    if server == "gunicorn":
        (directory / "hello.py").write_text(WSGI)
        program = os.environ.get("GUNICORN", "gunicorn")
        return [program, "-b", address, "-w", str(WORKERS), "-k", "gthread", "--threads", "4", "--keep-alive", "3600", "hello"]
    if server == "puma":
        (directory / "config.ru").write_text(RACK)
        (directory / "puma.rb").write_text("persistent_timeout 3600\nmax_fast_inline 1000000000\n")
        return ["puma", "-C", "puma.rb", "-b", f"tcp://{address}", "-w", str(WORKERS), "-t", "4:4"]
    (directory / "nginx.conf").write_text(NGINX.format(workers=WORKERS, port=port))
    return ["nginx", "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"]


def version(server, argv):
    """The first line of what the program says about its version."""
    flag = "-v" if server == "nginx" else "--version"
    said = subprocess.run([argv[0], flag], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return said.stdout.split("\n", 1)[0].strip()


def workers(server, parent):
    """The workers among the children of the server: their pids and ages in seconds."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    found = {}
    try:
        children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except FileNotFoundError:
        return found
    for pid in children:
        try:
            title = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if stat[0] in "ZX" or (server == "remuda" and b"worker" not in title):
            continue
        found[int(pid)] = now - int(stat[19]) / os.sysconf("SC_CLK_TCK")
    return found


class Lost(Exception):
    """The connection ended, or nothing came, before a whole response had come."""


class Tally:
    def __init__(self):
        self.answered = self.told = self.lost = self.refused = self.kills = self.idle_lost = 0
        self.over = False


async def connect(port):
    return await asyncio.open_connection("127.0.0.1", port)


async def ask(connection, path):
    """Sends a request and returns the status, and whether the connection goes on."""
    reader, writer = connection
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        await writer.drain()
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if fields.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await asyncio.wait_for(reader.readline(), PATIENCE)).split(b";")[0], 16):
                await asyncio.wait_for(reader.readexactly(size + 2), PATIENCE)
            await asyncio.wait_for(reader.readexactly(2), PATIENCE)
        else:
            await asyncio.wait_for(reader.readexactly(int(fields.get("content-length", 0))), PATIENCE)
    except (OSError, EOFError, ValueError, asyncio.TimeoutError) as error:
        raise Lost from error
    return int(head[0].split()[1]), fields.get("connection", "").lower() != "close"


async def busy(port, path, tally):
    """Sends one request after the other."""
    connection = None
    while not tally.over:
        try:
            connection = connection or await connect(port)
        except OSError:
            tally.refused += 1
            await asyncio.sleep(0.01)
            continue
        try:
            status, stays = await ask(connection, path)
        except Lost:
            tally.lost += 1
            stays = False
        else:
            tally.answered += status == 200
            tally.told += 500 <= status <= 599
        if not stays:
            connection[1].close()
            connection = None
    if connection:
        connection[1].close()


async def rest(port, path):
    """A connection that has had a response."""
    connection = await connect(port)
    assert await ask(connection, path) == (200, True), "the server closes connections"
    return connection


async def has_survived(connection, path):
    if connection[0].at_eof():
        return False
    try:
        return await ask(connection, path) == (200, True)
    except Lost:
        return False


async def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"the server has {condition.__doc__} not within {seconds} s")
        await asyncio.sleep(0.05)


async def run(server, process, port, options):
    path = "/sleep?ms=5" if server == "remuda" else "/"
    tally = Tally()

    def all_workers():
        """all workers"""
        return len(workers(server, process.pid)) == WORKERS

    def old_worker():
        """an old worker"""
        return any(age > OLD_ENOUGH for age in workers(server, process.pid).values())

    await until(all_workers, 60)
    idle = []
    for _ in range(IDLE):
        for attempt in range(100):
            try:
                idle.append(await rest(port, path))
                break
            except OSError:
                await asyncio.sleep(0.1)
    clients = [asyncio.create_task(busy(port, path, tally)) for _ in range(BUSY)]
    await asyncio.sleep(OLD_ENOUGH)
    start = time.monotonic()
    while tally.kills < options.kills:
        await until(old_worker, 60)
        old = [pid for pid, age in workers(server, process.pid).items() if age > OLD_ENOUGH]
        if old:
            os.kill(random.choice(old), signal.SIGKILL)
            tally.kills += 1
        await asyncio.sleep(0.2)
    took = time.monotonic() - start
    await asyncio.sleep(1)
    tally.over = True
    await asyncio.gather(*clients)
    survived = await asyncio.gather(*(has_survived(connection, path) for connection in idle))
    tally.idle_lost = survived.count(False)
    for _, writer in idle:
        writer.close()
    return tally, took


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("server", choices=["remuda", "gunicorn", "puma", "nginx"])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--backend", default="threaded", help="remuda's backend")
    parser.add_argument("--option", action="append", default=[], help="a further option of remuda: --option=--no-rescue")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="kills-") as directory:
        directory = pathlib.Path(directory)
        directory.chmod(0o755)
        argv = command(options.server, port, directory, options)
        name = version(options.server, argv)
        with open(directory / "log", "wb") as log:
            process = subprocess.Popen(argv, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            tally, took = asyncio.run(run(options.server, process, port, options))
        except BaseException:
            sys.stderr.write((directory / "log").read_text(errors="replace")[-4000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    print("| server | kills | seconds | answered | told | lost in flight | refused | idle lost |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {name} | {tally.kills} | {took:.0f} | {tally.answered} | {tally.told} | {tally.lost} "
        f"| {tally.refused} | {tally.idle_lost} of {IDLE} |"
    )


if __name__ == "__main__":
    main()
