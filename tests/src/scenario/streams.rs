//! A second protocol beside HTTP/1.1, with two exchanges at a time on one connection: the test
//! double of the module `fixture::double`.
//!
//! A request of these scenarios is `POST /collect`, whose handler reads the whole body and then
//! answers its length. So the client decides which handler ends when.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{admin, get};
use crate::Harness;
use crate::client::{Client, End, PATIENCE};
use crate::fixture::double::{PREFACE, frame};
use crate::process::{Server, until};

/// The harness for an application that is served over the double, too.
fn over(harness: &Harness) -> Harness {
    harness.clone().with_variable("FIXTURE_OVER", "double")
}

fn serve(harness: &Harness, args: &[&str]) -> Server {
    over(harness).serve(args)
}

/// A connection with the double.
fn connect(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(PREFACE);
    client
}

/// The head of a request for `target`, such as `GET /`.
fn head(id: u8, target: &str) -> Vec<u8> {
    frame(id, b'H', format!("{target} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
}

fn data(id: u8, text: &str) -> Vec<u8> {
    frame(id, b'D', text.as_bytes())
}

fn end(id: u8) -> Vec<u8> {
    frame(id, b'E', b"")
}

/// Sends the beginning of a request, and waits until its handler has begun.
#[track_caller]
fn begin(server: &Server, client: &mut Client, id: u8) {
    let word = format!("<stream {id}>");
    let text = format!("POST /collect HTTP/1.1\r\nTell: {word}\r\nHost: test\r\n\r\n");
    client.send(frame(id, b'H', text.as_bytes()));
    client.send(data(id, "a piece"));
    assert!(server.logs(&word, PATIENCE), "the handler of stream {id} never began");
}

/// The next frame: the number of its stream, its kind, and its payload.
#[track_caller]
fn next(client: &mut Client) -> (u8, char, String) {
    let [id, kind, len] = client.bytes(3)[..] else { unreachable!("it is three bytes") };
    let payload = client.bytes(len.into());
    (id, kind.into(), String::from_utf8(payload).expect("it is text"))
}

/// The frames up to those that end `n` streams, without the announcement of close.
#[track_caller]
fn responses(client: &mut Client, n: usize) -> Vec<(u8, char, String)> {
    let (mut frames, mut ended) = (Vec::new(), 0);
    while ended < n {
        let frame = next(client);
        ended += usize::from(matches!(frame.1, 'E' | 'R'));
        if frame.1 != 'G' {
            frames.push(frame);
        }
    }
    frames
}

/// The frames of a whole response.
fn response(id: u8, status: &str, body: &str) -> Vec<(u8, char, String)> {
    vec![(id, 'H', status.to_owned()), (id, 'D', body.to_owned()), (id, 'E', String::new())]
}

/// The frames of stream `id` among `frames`.
fn of(id: u8, frames: &[(u8, char, String)]) -> Vec<(u8, char, String)> {
    frames.iter().filter(|frame| frame.0 == id).cloned().collect()
}

pub(crate) fn first_bytes_choose_the_protocol_of_a_connection(harness: &Harness) {
    let server = serve(harness, &[]);
    let mut one = server.connect();
    one.drip(&[PREFACE, &head(1, "POST /collect"), &end(1)].concat(), Duration::from_millis(2));
    assert_eq!(responses(&mut one, 1), response(1, "200", "0\n"));
    // `PO` may begin either.
    let mut other = server.connect();
    let request = "POST /collect HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nab";
    other.drip(request.as_bytes(), Duration::from_millis(2));
    assert_eq!(other.response().text(), "2\n");
    server.connect().get("/");
}

pub(crate) fn each_stream_of_a_connection_is_answered(harness: &Harness) {
    let server = serve(harness, &[]);
    let mut client = connect(&server);
    for _ in 0..3 {
        client.send(
            [head(1, "POST /collect"), data(1, "abc"), head(2, "POST /collect"), data(2, "de")].concat(),
        );
        client.send([end(2), end(1)].concat());
        let frames = responses(&mut client, 2);
        assert_eq!(of(1, &frames), response(1, "200", "3\n"), "{frames:?}");
        assert_eq!(of(2, &frames), response(2, "200", "2\n"), "{frames:?}");
    }
}

pub(crate) fn streams_are_answered_in_the_order_in_which_their_handlers_end(harness: &Harness) {
    let server = serve(harness, &[]);
    let mut client = connect(&server);
    begin(&server, &mut client, 1);
    begin(&server, &mut client, 2);
    // Both handlers run.
    client.send(end(2));
    assert_eq!(responses(&mut client, 1), response(2, "200", "7\n"));
    // The connection takes another stream beside the first.
    client.send([head(3, "POST /collect"), end(3)].concat());
    assert_eq!(responses(&mut client, 1), response(3, "200", "0\n"));
    client.send(end(1));
    assert_eq!(responses(&mut client, 1), response(1, "200", "7\n"));
}

pub(crate) fn a_large_body_of_one_stream_leaves_the_other_alive(harness: &Harness) {
    let server = serve(harness, &[]);
    let mut client = connect(&server);
    begin(&server, &mut client, 1);
    client.send([head(2, "GET /bytes?n=300000"), end(2)].concat());
    let piece = "x".repeat(255);
    for _ in 0..1000 {
        client.send(data(1, &piece));
    }
    client.send(end(1));
    let frames = responses(&mut client, 2);
    assert_eq!(of(1, &frames), response(1, "200", "255007\n"));
    let sent: usize = of(2, &frames).iter().filter(|frame| frame.1 == 'D').map(|frame| frame.2.len()).sum();
    assert_eq!(sent, 300_000);
}

pub(crate) fn a_panic_in_one_stream_leaves_the_other_alive(harness: &Harness) {
    let server = serve(harness, &[]);
    let worker = server.worker().id();
    let mut client = connect(&server);
    begin(&server, &mut client, 1);
    client.send([head(2, "GET /panic"), end(2)].concat());
    client.send(end(1));
    let frames = responses(&mut client, 2);
    assert_eq!(of(1, &frames), response(1, "200", "7\n"), "{frames:?}");
    assert_eq!(of(2, &frames), response(2, "500", "internal server error\n"), "{frames:?}");
    client.send([head(1, "POST /collect"), end(1)].concat());
    assert_eq!(responses(&mut client, 1), response(1, "200", "0\n"));
    assert_eq!(server.worker().id(), worker);
}

pub(crate) fn d5_a_stream_in_flight_is_finished_in_a_drain(harness: &Harness) {
    let mut server = serve(harness, &[]);
    let (mut busy, mut idle) = (connect(&server), connect(&server));
    idle.send([head(1, "POST /collect"), end(1)].concat());
    assert_eq!(responses(&mut idle, 1), response(1, "200", "0\n"));
    begin(&server, &mut busy, 1);
    server.drain();
    assert_eq!(next(&mut busy), (0, 'G', String::new()), "close is announced at once");
    busy.send([head(2, "POST /collect"), end(2)].concat());
    assert_eq!(next(&mut busy), (2, 'R', String::new()), "a stream after the announcement is refused");
    busy.send([data(1, " and more"), end(1)].concat());
    assert_eq!(responses(&mut busy, 1), response(1, "200", "16\n"));
    assert_eq!(busy.end(PATIENCE), End::Fin);
    assert_eq!(next(&mut idle), (0, 'G', String::new()));
    assert_eq!(idle.end(PATIENCE), End::Fin);
    drop((busy, idle));
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d10_a_stream_without_an_answer_ends_at_the_deadline(harness: &Harness) {
    let mut server = serve(harness, &["--graceful-timeout", "1"]);
    let mut client = connect(&server);
    begin(&server, &mut client, 1);
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert_eq!(responses(&mut client, 1), [(1, 'H', "503".to_owned()), (1, 'E', String::new())]);
    assert_eq!(client.end(PATIENCE), End::Fin);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 6, "a request was cut");
    super::took("the exit", start, 0.9..3.0);
}

pub(crate) fn a_client_that_is_gone_ends_the_handlers_of_its_streams(harness: &Harness) {
    for resets in [false, true] {
        let threads: &[&str] = if harness.backend() == "sync" { &[] } else { &["--threads", "2"] };
        let server = admin::serve(&over(harness), threads);
        let worker = server.connect().get("/info").number("pid");
        let mut client = connect(&server);
        begin(&server, &mut client, 1);
        // A backend with one handler at a time begins the second when the first has ended.
        client.send([head(2, "POST /collect"), data(2, "a piece")].concat());
        match resets {
            true => client.vanish(),
            false => drop(client),
        }
        let value = |name| admin::metric(&admin::ask(&server, "/metrics").text(), name);
        let is_over = || value("remuda_requests_total") == 3.0 && value("remuda_requests_in_flight") == 0.0;
        let over = until(PATIENCE, || is_over().then_some(()));
        assert!(over.is_some(), "resets: {resets}: {}", admin::ask(&server, "/metrics").text());
        // All handler threads are free again.
        let mut others = [server.connect(), server.connect()];
        others.iter_mut().for_each(|other| other.send(get("/block?ms=50")));
        others.iter_mut().for_each(|other| assert_eq!(other.response().status, 200));
        assert_eq!(others[0].get("/info").number("pid"), worker);
    }
}
