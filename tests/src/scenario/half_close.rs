//! Clients that end their sending side after the request (RFC 9293 §3.6): each gets its whole
//! response, whatever is pending, and then the end of the connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::process::newcomer;
use super::{control, get, get_with_body, post, post_chunks, seconds, took, upgrade};
use crate::Harness;
use crate::client::{Client, End, PATIENCE};
use crate::process::{Server, until};

/// A request, and the body lengths of its responses.
struct Case {
    request: String,
    lengths: &'static [usize],
}

/// When the client's FIN is sent.
#[derive(Clone, Copy, Debug)]
enum Fin {
    /// With the last bytes, in the same segment.
    Together,
    /// In the next segment.
    Next,
    /// Once the request may have been read and its handler may be running.
    Later,
}

const FINS: [Fin; 3] = [Fin::Together, Fin::Next, Fin::Later];

fn cases() -> Vec<Case> {
    let case = |request: String, lengths| Case { request, lengths };
    let old = |path: &str| format!("GET {path} HTTP/1.0\r\n\r\n");
    let body = "x".repeat(50_000);
    vec![
        case(get("/"), &[13]),
        case(get("/").replace("GET", "HEAD"), &[0]),
        case(get("/sleep?ms=5"), &[5]),
        case(get("/block?ms=5"), &[5]),
        case(get("/stream?chunks=3&size=100&ms=2"), &[300]),
        case(get("/bytes?n=1048576"), &[1_048_576]),
        case(old("/"), &[13]),
        case(old("/stream?chunks=3&size=100&ms=2"), &[300]),
        case(get("/") + &get("/sleep?ms=5") + &get("/"), &[13, 5, 13]),
        case(get("/stream?chunks=2&size=10&ms=2").repeat(3), &[20, 20, 20]),
        case(post("/echo", body.len()) + &body, &[50_000]),
        case(post_chunks("/echo") + "5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", &[10]),
        case(get_with_body("/sleep?ms=5", body.len()) + &body, &[5]),
    ]
}

pub(crate) fn half_close_gets_every_response_whole(harness: &Harness) {
    for server in [harness.serve(&[]), harness.serve_unix(&[])] {
        for fin in FINS {
            for case in cases().iter().cycle().take(4 * cases().len()) {
                case.is_answered(&server, fin);
            }
        }
    }
}

pub(crate) fn half_close_gets_every_response_whole_behind_a_proxy_header(harness: &Harness) {
    let server = harness.serve(&["--proxy-protocol", "v1"]);
    for fin in FINS {
        for Case { request, lengths } in cases() {
            let request = format!("PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n{request}");
            Case { request, lengths }.is_answered(&server, fin);
        }
    }
}

pub(crate) fn half_close_gets_every_response_whole_among_many(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let server = &server;
    thread::scope(|scope| {
        for first in 0..8 {
            scope.spawn(move || {
                for (case, fin) in cases().iter().cycle().skip(first).zip(FINS.into_iter().cycle()).take(40) {
                    case.is_answered(server, fin);
                }
            });
        }
    });
}

pub(crate) fn half_close_gets_a_response_larger_than_all_buffers(harness: &Harness) {
    let server = harness.serve(&[]);
    for path in ["/bytes?n=33554432", "/stream?ms=0&size=1048576&chunks=32"] {
        for fin in FINS {
            Case { request: get(path), lengths: &[32 << 20] }.is_answered(&server, fin);
        }
    }
}

pub(crate) fn half_close_gets_its_response_in_a_drain(harness: &Harness) {
    let mut server = harness.serve(&["--graceful-timeout", "20"]);
    let mut clients = [(); 12].map(|()| server.connect());
    server.begin(&mut clients[0], get("/stream?chunks=5&size=1000&ms=40"));
    clients[0].half_close();
    for (client, fin) in clients[1..].iter_mut().zip(FINS.into_iter().cycle()) {
        fin.send(client, &get("/stream?chunks=5&size=1000&ms=10"));
    }
    server.arbiter().signal(Signal::TERM);
    for client in &mut clients {
        let response = client.response();
        assert_eq!((response.status, response.body.len()), (200, 5000), "{response:?}");
        assert_eq!(client.end(PATIENCE), End::Fin);
    }
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn half_close_gets_its_response_while_workers_are_replaced(harness: &Harness) {
    let server = control::serve(harness, &["--keep-alive", "60"]);
    let (server, over) = (&server, &AtomicBool::new(false));
    thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || {
                let cases = cases();
                for (case, fin) in cases.iter().cycle().skip(n).zip(FINS.into_iter().cycle()) {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    // The connection may be moving from one worker to another when the last request
                    // and the FIN arrive.
                    let mut client = server.connect();
                    client.get("/");
                    thread::sleep(Duration::from_millis(5));
                    case.is_answered_on(&mut client, fin);
                }
            });
        }
        for _ in 0..4 {
            let before = server.worker();
            control::done(harness, server, &["recycle", "--no-wait"]);
            until(PATIENCE, || newcomer(server.workers(1), std::slice::from_ref(&before)))
                .expect("the worker is replaced");
        }
        over.store(true, Ordering::Relaxed);
    });
}

pub(crate) fn half_close_of_an_upgraded_connection_ends_one_direction(harness: &Harness) {
    let server = harness.serve(&[]);
    const LEN: usize = 4 << 20;
    for early in ["", "these bytes come with the request"] {
        for fin in FINS {
            let mut client = server.connect();
            let path = format!("/farewell?n={LEN}");
            fin.send(&mut client, &(upgrade::request(&path) + early));
            assert_eq!(client.response().status, 101);
            assert!(client.bytes(LEN).iter().all(|byte| *byte == b'x'));
            assert_eq!(client.end(PATIENCE), End::Fin);
        }
    }
}

/// Other servers report the half-close within a second, also while nothing is being written.
pub(crate) fn d14_a_running_handler_sees_the_half_close_and_answers(harness: &Harness) {
    for server in [harness.serve(&[]), harness.serve_unix(&[])] {
        for fin in FINS {
            for path in ["/client-end?ms=60000", "/client-end/begun?ms=60000"] {
                let mut client = server.connect();
                let start = Instant::now();
                fin.send(&mut client, &get(path));
                let response = client.response();
                took("the handler answered", start, 0.0..1.0);
                let text = response.text();
                assert!(response.status == 200 && text.ends_with("ended\n"), "{path}, {fin:?}: {text}");
                assert_eq!(client.end(PATIENCE), End::Fin, "{path}, {fin:?}");
            }
        }
        // A client that is still connected is not reported as half-closed.
        assert_eq!(server.connect().get("/client-end?ms=50").text(), "stayed\n");
    }
}

pub(crate) fn d14_a_running_handler_sees_that_its_client_closed(harness: &Harness) {
    let server = harness.serve(&[]);
    for (n, path) in ["/client-end?ms=60000", "/client-end/begun?ms=60000"].into_iter().enumerate() {
        let mut client = server.connect();
        server.begin(&mut client, get(path));
        assert_eq!(server.log().matches("<ended>").count(), n);
        let start = Instant::now();
        drop(client);
        until(PATIENCE, || (server.log().matches("<ended>").count() > n).then_some(()))
            .unwrap_or_else(|| panic!("{path}: the handler does not see it"));
        took("the report", start, 0.0..1.0);
    }
    server.connect().get("/");
}

/// A handler that sees the half-close can end a drain in which only that handler is left.
pub(crate) fn d14_a_handler_sees_the_half_close_in_a_drain(harness: &Harness) {
    let mut server = harness.serve(&["--graceful-timeout", "30"]);
    let mut client = server.connect();
    server.begin(&mut client, get("/client-end?ms=60000"));
    server.drain();
    let start = Instant::now();
    client.half_close();
    assert_eq!(client.response().text(), "ended\n");
    assert_eq!(server.exit(PATIENCE), 0);
    took("the rest of the drain", start, 0.0..2.0);
}

/// A level-triggered poller reports the end of the peer's side again and again. The loop must not
/// spin on it.
pub(crate) fn waiting_after_a_half_close_uses_no_processor_time(harness: &Harness) {
    let server = harness.serve(&[]);
    let worker = server.worker();
    let mut clients = [(); 3].map(|()| server.connect());
    for client in &mut clients {
        client.send_last(get("/sleep?ms=700"));
    }
    let before = worker.processor_time();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
        assert_eq!(client.end(PATIENCE), End::Fin);
    }
    let used = worker.processor_time() - before;
    assert!(used < seconds(0.2), "{used:?} of processor time");
}

impl Fin {
    fn send(self, client: &mut Client, bytes: &str) {
        match self {
            Self::Together => client.send_last(bytes),
            Self::Next => {
                client.send(bytes);
                client.half_close();
            }
            Self::Later => {
                client.send(bytes);
                thread::sleep(Duration::from_millis(2));
                client.half_close();
            }
        }
    }
}

impl Case {
    #[track_caller]
    fn is_answered(&self, server: &Server, fin: Fin) {
        self.is_answered_on(&mut server.connect(), fin);
    }

    #[track_caller]
    fn is_answered_on(&self, client: &mut Client, fin: Fin) {
        fin.send(client, &self.request);
        let what = self.request.lines().find(|line| !line.starts_with("PROXY ")).unwrap_or_default();
        for &len in self.lengths {
            let mut response = client.try_head().unwrap_or_else(|broken| panic!("{what}, {fin:?}: {broken}"));
            if !what.starts_with("HEAD") {
                client.try_body(&mut response).unwrap_or_else(|broken| panic!("{what}, {fin:?}: {broken}"));
            }
            assert_eq!((response.status, response.body.len()), (200, len), "{what}, {fin:?}");
        }
        assert_eq!(client.end(PATIENCE), End::Fin, "{what}, {fin:?}");
    }
}
