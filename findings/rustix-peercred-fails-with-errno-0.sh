#!/usr/bin/env bash
# rustix reports a successful SO_PEERCRED as an error with number 0 if the peer is outside the PID namespace.
#
# Guess: for a peer whose process has no number in the caller's PID namespace, the credentials come
# with pid 0, as unix(7) and the kernel specify, and the uid is usable; or the call fails with
# ESRCH.
#
# Seen (rustix 1.1.6, Linux 6.18.44): getsockopt(2) succeeds with pid 0 and the right uid, and
# rustix::net::sockopt::socket_peercred returns Err with the raw number 0, which prints as "Success
# (os error 0)". Its `UCred::pid` is a type without a zero, so pid 0 is the niche that `Result` uses
# for `Err`.
#
# Why it matters here: a control socket that is shared with a container by a mount knows its peers
# by uid. With that function it refuses all of them, and the log blames a success.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
if ! unshare --user --map-root-user --pid --fork true; then
    echo "no PID namespace can be made here, so nothing was examined" >&2
    exit 3
fi

mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "peer"
version = "0.0.0"
edition = "2021"

[dependencies]
rustix = { version = "=1.1.6", features = ["net"] }
TOML
cat > src/main.rs <<'RUST'
use std::os::unix::net::{UnixListener, UnixStream};

fn main() {
    let argument: Vec<String> = std::env::args().collect();
    if argument[1] == "connect" {
        let peer = UnixStream::connect(&argument[2]).unwrap();
        let _ = std::io::Read::read(&mut &peer, &mut [0]);
        return;
    }
    let listener = UnixListener::bind(&argument[2]).unwrap();
    let (peer, _) = listener.accept().unwrap();
    match rustix::net::sockopt::socket_peercred(&peer) {
        Ok(peer) => println!("pid {}, uid {}", peer.pid.as_raw_nonzero(), peer.uid.as_raw()),
        Err(error) => println!("error {}: {error}", error.raw_os_error()),
    }
}
RUST
cargo build --quiet

# seen COMMAND...: what a listener that COMMAND runs says of a peer outside.
seen() {
    rm -f socket
    "$@" target/debug/peer accept socket > said &
    for _ in {1..100}; do [[ -S socket ]] && break; sleep 0.1; done
    timeout 10 target/debug/peer connect socket
    wait $!
    cat said
}
same=$(seen env)
other=$(seen unshare --user --map-root-user --pid --fork)
echo "rustix 1.1.6, same namespace: $same"
echo "rustix 1.1.6, other namespace: $other"
[[ $same =~ ^pid\ [1-9] && $other == "error 0: "* ]] || { echo "this has changed" >&2; exit 1; }
