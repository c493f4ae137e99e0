//! Many slow, silent, vanished or malformed clients: others are answered meanwhile, and no trace of
//! them is left afterwards.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{admin, allow_descriptors, get, post, post_chunks};
use crate::Harness;
use crate::client::{End, PATIENCE};
use crate::process::{Process, Server, until};

/// How long another client may wait for an answer: much longer than an answer takes, and less than
/// any limit that ends the clients it would have to wait for.
const OTHERS: Duration = Duration::from_secs(8);

/// How much a worker's memory may grow by many clients: what its allocator keeps for later ones.
const MARGIN: u64 = 2 << 20;

pub(crate) fn robust_slow_heads_delay_no_other_client(harness: &Harness) {
    let subject = Subject::serve(harness, &["--header-timeout", "6"]);
    let head = get("/");
    subject.meanwhile(|| {
        let mut slow: Vec<_> = (0..64).map(|_| subject.server.connect()).collect();
        let (complete, endless) = slow.split_at_mut(48);
        // All bytes but the last are sent one by one, to each client in turn.
        for byte in &head.as_bytes()[..head.len() - 1] {
            for client in complete.iter_mut().chain(&mut *endless) {
                client.send([*byte]);
            }
            thread::sleep(Duration::from_millis(2));
        }
        for client in complete {
            client.send([b'\n']);
            assert_eq!(client.response().status, 200);
        }
        for client in endless {
            client.last_response(408);
        }
    });
    subject.is_as_before();
}

pub(crate) fn robust_silent_connections_leave_nothing_behind(harness: &Harness) {
    let subject = Subject::serve(harness, &["--header-timeout", "2"]);
    let mut silent = Vec::new();
    subject.meanwhile(|| {
        silent.extend((0..500).map(|_| subject.server.connect()));
        for client in &mut silent {
            assert_eq!(client.end(PATIENCE), End::Fin);
        }
    });
    // The server has closed them, not the clients.
    subject.is_as_before();
    drop(silent);
}

pub(crate) fn robust_slow_bodies_delay_no_other_client(harness: &Harness) {
    let subject = Subject::serve(harness, &["--body-timeout", "3"]);
    subject.meanwhile(|| {
        let mut slow: Vec<_> = (0..32).map(|_| subject.server.connect()).collect();
        let (complete, endless) = slow.split_at_mut(24);
        for (n, client) in complete.iter_mut().chain(&mut *endless).enumerate() {
            client.send(if n % 2 == 0 { post("/collect", 10) } else { post_chunks("/collect") + "a\r\n" });
        }
        for byte in b"123456789" {
            for client in complete.iter_mut().chain(&mut *endless) {
                // A client that waited too long for a handler may have been refused.
                let _ = client.try_send([*byte]);
            }
            thread::sleep(Duration::from_millis(20));
        }
        for (n, client) in complete.iter_mut().enumerate() {
            client.send(if n % 2 == 0 { "0" } else { "0\r\n0\r\n\r\n" });
            assert_eq!(client.response().text(), "10\n");
        }
        for client in endless {
            // How much of the answer was sent by then depends on the application.
            if client.try_response().is_ok() {
                assert_eq!(client.end(PATIENCE), End::Fin);
            }
        }
    });
    subject.is_as_before();
}

pub(crate) fn robust_stalled_readers_delay_no_other_client(harness: &Harness) {
    let subject = Subject::serve(harness, &["--write-timeout", "1"]);
    subject.meanwhile(|| {
        let mut stopped = [(); 3].map(|()| subject.server.connect());
        for client in &mut stopped {
            client.send(get("/bytes?n=67108864"));
        }
        for client in &mut stopped {
            let mut response = client.head();
            // The clients do not read before the server has ended all of them.
            let ended = until(PATIENCE, || (in_flight(&subject.server) == 0.0).then_some(()));
            assert!(ended.is_some(), "an unread response never ends");
            let broken = client.try_body(&mut response).expect_err("the response is cut");
            assert!(broken.is_cut_by_server(), "{broken}");
        }
    });
    subject.is_as_before();
}

pub(crate) fn robust_resets_leave_nothing_behind(harness: &Harness) {
    let subject = Subject::serve(harness, &[]);
    let cut: [(&str, bool); 8] = [
        ("", false),
        ("GET / HTTP/1.1\r\nHo", false),
        ("GET /sleep?ms=3 HTTP/1.1\r\nHost: test\r\n\r\n", false),
        ("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf", false),
        ("POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", false),
        ("GET / HTTP/1.1\r\nHost: test\r\n\r\nGET /sleep?ms=3 HTTP/1.1\r\nHost: test\r\n\r\nGET ", true),
        ("GET /bytes?n=16777216 HTTP/1.1\r\nHost: test\r\n\r\n", true),
        ("GET /stream?chunks=1000&size=100&ms=1 HTTP/1.1\r\nHost: test\r\n\r\n", true),
    ];
    subject.meanwhile(|| {
        for n in 0..50 {
            for (bytes, reads) in cut {
                let mut client = subject.server.connect();
                client.send(bytes);
                if reads {
                    client.head();
                }
                if n % 3 == 0 {
                    client.half_close();
                }
                client.vanish();
            }
        }
    });
    subject.is_as_before();
}

pub(crate) fn robust_random_bytes_do_no_harm(harness: &Harness) {
    let seed = fastrand::u64(..);
    let subject = Subject::serve(harness, &[]);
    let next = Mutex::new(0..1000_u64);
    subject.meanwhile(|| {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(n) = next.lock().expect("no thread panics with the lock").next() {
                        let bytes = random(&mut fastrand::Rng::with_seed(seed.wrapping_add(n)));
                        let mut client = subject.server.connect();
                        // The server does not read a refused request to its end.
                        let _ = client.try_send(&bytes);
                        let end = client.give_up();
                        let shown = bytes.escape_ascii();
                        assert_ne!(end, End::StillOpen, "string {n} of seed {seed}: {shown}");
                    }
                });
            }
        });
    });
    subject.is_as_before();
}

pub(crate) fn robust_other_protocols_are_refused_by_name(harness: &Harness) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let subject = Subject::serve(harness, &[]);
    for _ in 0..20 {
        let mut client = subject.server.connect();
        client.send(tls_hello());
        client.last_response(400);
        let mut client = subject.server.connect();
        client.send(PREFACE);
        client.last_response(505);
        // Neither has to send more before it is refused.
        let mut client = subject.server.connect();
        client.send(&tls_hello()[..6]);
        client.last_response(400);
    }
    subject.is_as_before();
    for words in ["speak TLS", "speak HTTP/2"] {
        assert!(subject.server.logs(words, PATIENCE), "{words}: {}", subject.server.log());
        let log = subject.server.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(words)).collect();
        assert_eq!(lines.len(), 1, "{words}: {log}");
        assert!(lines[0].contains("WARN"), "{lines:?}");
    }
}

/// A server of one worker, and the resources of its idle processes.
struct Subject {
    server: Server,
    worker: Process,
    before: Held,
}

/// The resources of a server's processes: the number of descriptors, and memory in bytes.
#[derive(Debug)]
struct Held {
    arbiter: (usize, u64),
    worker: (usize, u64),
}

impl Subject {
    #[track_caller]
    fn serve(harness: &Harness, args: &[&str]) -> Self {
        allow_descriptors(4096);
        // Sync has one handler, and no setting for it.
        let threads: &[&str] = if harness.backend() == "sync" { &[] } else { &["--threads", "4"] };
        let server = admin::serve(harness, &[threads, args].concat());
        let (_, mut workers) = admin::processes(harness, &server, 1);
        let worker = workers.remove(0);
        // Memory and descriptors that threads, buffers and runtimes take once do not count.
        let mut open: Vec<_> = (0..500).map(|_| server.connect()).collect();
        for (client, path) in
            open.iter_mut().zip(["/", "/block?ms=1", "/stream?chunks=2&ms=1", "/bytes?n=1000000"])
        {
            client.get(path);
        }
        let accepted =
            || admin::metric(&admin::ask(&server, "/metrics").text(), "remuda_connections_accepted_total");
        let all = || (accepted() >= 500.0).then_some(());
        assert!(until(PATIENCE, all).is_some(), "connections are not accepted");
        drop(open);
        assert!(ends(&server), "connections that are closed are never ended");
        Self { before: Held::of(&server, &worker), server, worker }
    }

    /// Does `work` while other clients send requests, and asserts that they are answered in time.
    #[track_caller]
    fn meanwhile(&self, work: impl FnOnce()) {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let others = scope.spawn(|| {
                let mut kept = self.server.connect();
                let mut longest = Duration::ZERO;
                while !over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    self.server.connect().get("/");
                    if kept.try_send(get("/")).is_err() || kept.try_response().is_err() {
                        // If another request held the only handler, the keep-alive time may have
                        // passed.
                        kept = self.server.connect();
                    }
                    longest = longest.max(asked.elapsed());
                    thread::sleep(Duration::from_millis(10));
                }
                longest
            });
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            over.store(true, Ordering::Relaxed);
            let longest = others.join().expect("others are answered");
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert!(longest < OTHERS, "another client waited for {longest:?}");
        });
    }

    /// Asserts that no connection is left, nor descriptors, memory or counts of any.
    #[track_caller]
    fn is_as_before(&self) {
        assert!(ends(&self.server), "a connection is left");
        let held = || {
            let held = Held::of(&self.server, &self.worker);
            (held.arbiter.0 == self.before.arbiter.0 && held.worker.0 == self.before.worker.0).then_some(held)
        };
        let after = until(PATIENCE, held).unwrap_or_else(|| {
            panic!("{:?} before, {:?} now", self.before, Held::of(&self.server, &self.worker))
        });
        let bounded = |after: u64, before: u64| after < before + MARGIN;
        assert!(
            bounded(after.worker.1, self.before.worker.1) && bounded(after.arbiter.1, self.before.arbiter.1),
            "{:?} before, {after:?} now",
            self.before
        );
        let zero = |series: &str| {
            let is_zero =
                || (admin::metric(&admin::ask(&self.server, "/metrics").text(), series) == 0.0).then_some(());
            assert!(until(PATIENCE, is_zero).is_some(), "{series} is not zero again");
        };
        zero("remuda_requests_in_flight");
        zero("remuda_busy_handlers");
        zero("remuda_handler_panics_total");
        let worker = &self.worker;
        assert_eq!(self.server.connect().get("/info").number("pid"), worker.id(), "the worker was replaced");
        let log = self.server.log();
        assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    }
}

/// The number of connections, in all states.
fn open_connections(server: &Server) -> f64 {
    let text = admin::ask(server, "/metrics").text();
    let of = |state| admin::metric(&text, &format!("remuda_connections{{state=\"{state}\"}}"));
    of("in_flight") + of("waiting")
}

fn in_flight(server: &Server) -> f64 {
    admin::metric(&admin::ask(server, "/metrics").text(), "remuda_requests_in_flight")
}

/// Waits until no connection is left.
fn ends(server: &Server) -> bool {
    until(PATIENCE, || (open_connections(server) == 0.0).then_some(())).is_some()
}

impl Held {
    fn of(server: &Server, worker: &Process) -> Self {
        let of = |process: &Process| (process.descriptors(), process.memory());
        Self { arbiter: of(server.arbiter()), worker: of(worker) }
    }
}

/// Up to 2,000 random bytes, or bytes that resemble a request in places.
fn random(rng: &mut fastrand::Rng) -> Vec<u8> {
    const WORDS: [&[u8]; 24] = [
        b"GET ",
        b"POST ",
        b"/",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"Host: test\r\n",
        b"Content-Length: ",
        b"10",
        b"-1",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: ",
        b"close",
        b"upgrade",
        b"Expect: 100-continue\r\n",
        b": ",
        b"\0",
        b"\xff\xfe",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"%00",
    ];
    let len = rng.usize(1..2000);
    let mut bytes = Vec::new();
    let any = rng.bool();
    while bytes.len() < len {
        match any || rng.u8(..8) == 0 {
            true => bytes.push(rng.u8(..)),
            false => bytes.extend(WORDS[rng.usize(..WORDS.len())]),
        }
    }
    bytes
}

/// The beginning of a ClientHello of TLS 1.2 or 1.3 (RFC 8446 §4.1.2, §5.1).
fn tls_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend([0x5a; 32]);
    hello.extend([0x20; 33]);
    hello.extend([0, 4, 0x13, 1, 0x13, 2, 1, 0]);
    hello.resize(5 + 0x200, b'\n');
    hello
}
