//! Clients so far away that their handshakes are still open when the server stops (D4), with each
//! kind of gate that the server's user may be able to shut.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};

use super::{get, took};
use crate::Harness;
use crate::client::remote::{Remote, may_be_remote};
use crate::client::{Address, End, PATIENCE};
use crate::process::Server;

/// From the SYN-ACK to the client's next segment, in milliseconds.
const DISTANCES: [u64; 6] = [2, 10, 20, 50, 100, 300];

pub(crate) fn d4_a_handshake_open_at_a_stop_is_completed_and_served(harness: &Harness) {
    if !can_be_shown() {
        return;
    }
    for (harness, gate) in by_both_gates(harness) {
        let mut server = harness.serve(&["-w", "2"]);
        let remotes = begin(&server, &DISTANCES);
        let term = Instant::now();
        server.arbiter().signal(Signal::TERM);
        complete(remotes, &get("/"), term, gate);
        assert_eq!(server.exit(PATIENCE), 0, "{gate}");
        let log = server.log();
        assert!(!log.contains("WARN"), "{gate}: {log}");
    }
}

pub(crate) fn d4_ipv6_and_dual_stack_handshakes_are_completed_at_a_stop(harness: &Harness) {
    if !can_be_shown() {
        return;
    }
    for (harness, gate) in by_both_gates(harness) {
        let mut server = harness.launch("[::]:0", &["-w", "2"]).ready();
        let Address::Inet(bound) = *server.address() else { panic!("it listens at {:?}", server.address()) };
        let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), bound.port());
        let remotes = ["::1", "127.0.0.1"].map(|ip| (50, begin_at(at(ip))));
        let term = Instant::now();
        server.arbiter().signal(Signal::TERM);
        complete(remotes.into(), &get("/"), term, gate);
        assert_eq!(server.exit(PATIENCE), 0, "{gate}");
        assert!(!server.log().contains("WARN"), "{gate}: {}", server.log());
    }
}

pub(crate) fn d4_a_stop_waits_half_a_second_for_handshakes_and_counts_them(harness: &Harness) {
    if !can_be_shown() {
        return;
    }
    let mut server = harness.serve(&["-w", "2"]);
    let flood = begin(&server, &[0; 40]);
    let remotes = begin(&server, &[50]);
    let term = Instant::now();
    server.arbiter().signal(Signal::TERM);
    complete(remotes, &get("/"), term, "among many that are open");
    assert_eq!(server.exit(PATIENCE), 0, "handshakes alone are no work that was cut");
    took("the server ended", term, 0.5..1.5);
    let log = server.log();
    let said = format!("{} handshakes at http://{} were still open after 500 ms", flood.len(), inet(&server));
    let counted = format!("backlog_lost={}", flood.len());
    // The last look at the handshakes may be some milliseconds late.
    let said = said.trim_end_matches("500 ms");
    assert!(log.contains(said) && log.contains(&counted), "{said}, {counted}: {log}");
}

pub(crate) fn d11_a_second_signal_ends_the_wait_for_handshakes(harness: &Harness) {
    if !can_be_shown() {
        return;
    }
    for second in [Signal::INT, Signal::TERM] {
        let mut server = harness.serve(&["-w", "2"]);
        let open = begin(&server, &[0; 3]);
        let term = Instant::now();
        server.arbiter().signal(Signal::TERM);
        thread::sleep(Duration::from_millis(100));
        server.arbiter().signal(second);
        server.exit(PATIENCE);
        took("the server ended", term, 0.1..0.4);
        let counted = format!("backlog_lost={}", open.len());
        assert!(server.log().contains(&counted), "{counted}: {}", server.log());
    }
    // A stop that is quick from its beginning does not wait for long either.
    let mut server = harness.serve(&["-w", "2"]);
    let _open = begin(&server, &[0; 3]);
    let int = Instant::now();
    server.arbiter().signal(Signal::INT);
    server.exit(PATIENCE);
    took("the server ended", int, 0.0..0.4);
}

pub(crate) fn d16_a_handshake_open_at_a_removed_address_is_completed(harness: &Harness) {
    if !can_be_shown() {
        return;
    }
    for (harness, gate) in by_both_gates(harness) {
        let settings = |binds: &str| format!("bind = [{binds}]\nworker-class = \"{}\"\n", harness.backend());
        let server = harness.serve_file(&settings("\"127.0.0.1:0\", \"unix:other.sock\""));
        let remotes = begin(&server, &DISTANCES);
        std::fs::write(server.dir().join("remuda.toml"), settings("\"unix:other.sock\""))
            .expect("it is written");
        server.arbiter().signal(Signal::HUP);
        // The boot of the new generation comes on top. The first worker of it that is ready waits
        // for the handshakes.
        assert!(server.logs("all older workers were told to drain", PATIENCE), "{}", server.log());
        // Workers that stay do not announce close by themselves.
        let last = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        complete(remotes, last, Instant::now(), gate);
        Address::Unix(server.dir().join("other.sock")).connect(PATIENCE).expect("it serves there").get("/");
        assert!(!server.log().contains("WARN"), "{gate}: {}", server.log());
    }
}

#[allow(clippy::print_stderr, reason = "a scenario says why it shows nothing")]
fn can_be_shown() -> bool {
    match may_be_remote() {
        Ok(()) => true,
        Err(why) => {
            eprintln!("skipped: this user cannot act as a remote client: {why} (CAP_NET_RAW)");
            false
        }
    }
}

/// A server that may attach a filter to a TCP socket, and one that may not. Older kernels let every
/// user do so.
fn by_both_gates(harness: &Harness) -> Vec<(Harness, &'static str)> {
    let mut both = vec![(harness.clone(), "as this user")];
    if geteuid().is_root() {
        let without = harness.clone().started_by(&["setpriv", "--bounding-set", "-net_admin"]);
        both.push((without, "without CAP_NET_ADMIN"));
    }
    both
}

fn inet(server: &Server) -> SocketAddr {
    match *server.address() {
        Address::Inet(addr) => addr,
        ref other => panic!("it listens at {other:?}"),
    }
}

/// Begins a handshake with `server` for each distance.
#[track_caller]
fn begin(server: &Server, distances: &[u64]) -> Vec<(u64, Remote)> {
    distances.iter().map(|distance| (*distance, begin_at(inet(server)))).collect()
}

#[track_caller]
fn begin_at(addr: SocketAddr) -> Remote {
    Remote::begin(addr).expect("a raw socket takes segments").expect("a server that serves answers a SYN")
}

/// Completes each handshake at its time, and asserts that its request is answered. Close is
/// announced to the farthest client at least: a nearer one may be accepted by a worker that has not
/// yet read its drain order.
#[track_caller]
fn complete(remotes: Vec<(u64, Remote)>, request: &str, since: Instant, gate: &str) {
    let farthest = remotes.iter().map(|(distance, _)| *distance).max();
    thread::scope(|scope| {
        let each = remotes.into_iter().map(|(distance, mut remote)| {
            let at = since + Duration::from_millis(distance);
            scope.spawn(move || {
                thread::sleep(at.saturating_duration_since(Instant::now()));
                let (text, end) = remote.ask(request).expect("a raw socket takes segments");
                let announced = text.to_lowercase().contains("\r\nconnection: close\r\n");
                let is_served =
                    text.starts_with("HTTP/1.1 200 ") && (announced || Some(distance) != farthest);
                (!is_served || end != End::Fin).then(|| format!("{distance} ms: {end:?} after {text:?}"))
            })
        });
        let lost: Vec<_> =
            each.collect::<Vec<_>>().into_iter().filter_map(|one| one.join().expect("no panic")).collect();
        assert!(lost.is_empty(), "{gate}: {}", lost.join("; "));
    });
}
