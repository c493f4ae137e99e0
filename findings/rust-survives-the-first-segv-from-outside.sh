#!/usr/bin/env bash
# A Rust program survives the first SIGSEGV, and the first SIGBUS, that another process sends it.
#
# Guess: kill -SEGV ends a program that installs no handler itself, as any other fatal signal does.
#
# Seen (rustc 1.95.0, Linux 6.18): it runs on after the first one, and the second one ends it. The
# standard library installs handlers for both signals, which look for a stack overflow. For any other
# cause the handler restores the default action and returns. A faulty instruction then faults again and
# ends the process; a signal from outside has no instruction that would be repeated. ABRT and ILL end
# the program at once.
#
# Why it matters here: a test that simulates a crash by SEGV, or an operator who wants a core dump, sees
# a server that serves on, and counts a crash that never was. Send the signal until the process is gone,
# or send ABRT.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
rustc --version
cat > sleeper.rs <<'EOF'
fn main() {
    std::thread::sleep(std::time::Duration::from_secs(30));
}
EOF
rustc sleeper.rs

# outcome SIGNAL: how many of these signals, one after the other, end the program; with its status.
outcome() {
    local sent=0 status=0
    ./sleeper &
    local pid=$!
    sleep 0.3 # the handlers are installed before main
    while kill -0 "$pid" 2> /dev/null && ((sent < 3)); do
        kill -s "$1" "$pid"
        sent=$((sent + 1))
        # A process that has ended stays a zombie until it is waited for.
        for ((i = 0; i < 20; i++)); do
            [[ $(cut -d ' ' -f 3 "/proc/$pid/stat") == Z ]] && break 2
            sleep 0.02
        done
    done
    wait "$pid" || status=$?
    echo "$1: $sent sent, status $status"
}

expected="SEGV: 2 sent, status 139
BUS: 2 sent, status 135
ABRT: 1 sent, status 134
ILL: 1 sent, status 132"
seen=$(for signal in SEGV BUS ABRT ILL; do outcome "$signal"; done 2> /dev/null)
echo "$seen"
[[ $seen == "$expected" ]] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
