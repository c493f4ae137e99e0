//! Reports to an observer: each request once, with its outcome.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};

use super::*;
use crate::app::{Answered, App, Body, Call, Cut, Incoming, LocalFuture, Observer};
use crate::conn::Connection;
use crate::peer::{Origin, Peer};
use crate::session::Session;
use crate::testing::{Event, Gate, START, ms};

/// Records the reports.
#[derive(Debug, Default)]
struct Account(Log);

impl Observer for Account {
    fn answered(&self, answered: &Answered<'_>) {
        let line = String::from_utf8_lossy(answered.head.request_line());
        let (method, target) = (answered.head.method(), answered.head.target());
        let (since, took) = (answered.since - START, answered.took);
        let kind = answered.field("CONTENT-TYPE").map(|value| value.escape_ascii().to_string());
        let Answered { status, sent, .. } = answered;
        self.0.lock().expect("not poisoned").push(format!(
            "{line:?} {method:?} {target:?} {} {sent} {} {} {}",
            status.map_or("-".to_owned(), |status| status.to_string()),
            since.as_millis(),
            took.as_millis(),
            kind.unwrap_or_else(|| "-".to_owned()),
        ));
    }

    fn wants_fields(&self) -> bool {
        true
    }
}

/// The reports of all events on `bench`.
fn account(bench: Bench) -> Vec<String> {
    let account = Account::default();
    let log = account.0.clone();
    let service = Arc::new((*bench.service).clone().observed_by(Some(Arc::new(account))));
    let connection = Connection::new(Origin::new(0, Peer::Unix, 7), START);
    let session = Some(Session::new(connection, service.clone()));
    Bench { session, service, ..bench }.run();
    log.lock().expect("not poisoned").to_vec()
}

#[test]
fn each_response_is_observed_with_status_and_size() {
    for bench in [bench, short_bench] {
        let script =
            get("/") + "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + &post("/echo", "four") + &get("/stream?3");
        assert_eq!(
            account(bench().bytes(5, script).at(9, Event::Eof)),
            [
                r#""GET / HTTP/1.1" "GET" "/" 200 5 5 0 -"#,
                r#""HEAD / HTTP/1.1" "HEAD" "/" 200 0 5 0 -"#,
                r#""POST /echo HTTP/1.1" "POST" "/echo" 200 4 5 0 -"#,
                r#""GET /stream?3 HTTP/1.1" "GET" "/stream?3" 200 21 5 0 -"#,
            ]
        );
    }
}

#[test]
fn the_duration_of_a_response_lasts_to_its_end() {
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    let told = account(bench().bytes(5, head).bytes(250, "four").at(300, Event::Eof));
    assert_eq!(told, [r#""POST /echo HTTP/1.1" "POST" "/echo" 200 4 5 245 -"#]);
}

#[test]
fn an_error_of_the_application_is_observed_as_a_500() {
    let told = |target| account(bench().bytes(0, get(target)).at(9, Event::Eof));
    assert_eq!(told("/panic"), [r#""GET /panic HTTP/1.1" "GET" "/panic" 500 22 0 0 text/plain"#]);
    assert_eq!(told("/late-fail"), [r#""GET /late-fail HTTP/1.1" "GET" "/late-fail" 200 4 0 0 -"#]);
}

#[test]
fn a_refused_request_is_observed_as_far_as_it_was_parsed() {
    let told = |bytes: &str| account(bench().bytes(0, bytes).at(20_000, Event::Eof));
    let text = "text/plain";
    for (bytes, line) in [
        ("nonsense\r\n\r\n", format!(r#""nonsense" "" "" 400 23 0 0 {text}"#)),
        ("GET /a b HTTP/1.1\r\n\r\n", format!(r#""GET /a b HTTP/1.1" "GET" "/a" 400 23 0 0 {text}"#)),
        ("GET /a HTTP/3.0\r\n\r\n", format!(r#""GET /a HTTP/3.0" "GET" "/a" 505 22 0 0 {text}"#)),
        ("GET /a?b HTTP/1.1\r\n\r\n", format!(r#""GET /a?b HTTP/1.1" "GET" "/a?b" 400 42 0 0 {text}"#)),
        (
            "\r\nGET /late HTTP/1.1\r\nHo",
            format!(r#""GET /late HTTP/1.1" "GET" "/late" 408 23 0 10000 {text}"#),
        ),
        ("GET /later", format!(r#""GET /later" "GET" "" 408 23 0 10000 {text}"#)),
    ] {
        assert_eq!(told(bytes), [line], "{bytes:?}");
    }
    let told = account(bench().limits(|limits| limits.body = 3).bytes(0, post("/echo", "four")));
    assert_eq!(told, [r#""POST /echo HTTP/1.1" "POST" "/echo" 413 23 0 0 text/plain"#]);
    let chunked = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let told = account(bench().bytes(0, chunked).bytes(7, "x\r\n").at(9, Event::Eof));
    assert_eq!(told, [r#""POST /echo HTTP/1.1" "POST" "/echo" 400 25 0 7 text/plain"#]);
}

#[test]
fn a_connection_without_a_request_is_not_observed() {
    assert_eq!(account(bench().bytes(0, "GET / HT").at(9, Event::Eof)), [""; 0]);
    assert_eq!(account(bench().at(9, Event::Eof)), [""; 0]);
}

#[test]
fn an_upgraded_connection_is_observed_at_its_end() {
    let told = account(bench().bytes(0, upgrade()).bytes(50, "ping").at(90, Event::Eof));
    assert_eq!(told, [r#""GET /upgrade HTTP/1.1" "GET" "/upgrade" 101 4 0 90 -"#]);
}

#[test]
fn a_request_whose_client_is_gone_has_no_status() {
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    for bench in [bench, short_bench] {
        let told = account(bench().bytes(0, head).at(30, Event::Reset));
        assert_eq!(told, [r#""POST /echo HTTP/1.1" "POST" "/echo" - 0 0 30 -"#]);
    }
    let told = account(Bench::of(App::call(Waiting)).bytes(0, get("/")).at(30, Event::Gone));
    assert_eq!(told, [r#""GET / HTTP/1.1" "GET" "/" - 0 0 30 -"#]);
}

#[test]
fn a_response_cut_at_the_drains_deadline_is_observed_as_cut() {
    // Before its response has begun, the client gets 503. Afterwards the bytes sent count.
    let told = account(Bench::of(App::call(Waiting)).bytes(0, get("/")).drain(10, 500));
    assert_eq!(told, [r#""GET / HTTP/1.1" "GET" "/" 503 23 0 500 text/plain"#]);

    let slow = bench().bytes(0, get("/flood?1000")).drain(10, 500);
    slow.pipe.0.borrow_mut().room = 5000;
    let [line] = &account(slow)[..] else { panic!("one request is reported once") };
    let (before, after) = (r#""GET /flood?1000 HTTP/1.1" "GET" "/flood?1000" 200 "#, " 0 500 -");
    let sent = line.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    let sent: u64 = sent.unwrap_or_else(|| panic!("{line}")).parse().expect("a number");
    assert!((4000..=5000).contains(&sent), "{sent} of 5000 bytes of head, chunks and content");
}

#[test]
fn unused_fields_are_not_kept() {
    #[derive(Debug)]
    struct Indifferent;
    impl Observer for Indifferent {
        fn answered(&self, answered: &Answered<'_>) {
            assert_eq!(answered.field("date"), None);
        }
    }
    let mut bench = bench().bytes(0, get("/"));
    let service = Arc::new((*bench.service).clone().observed_by(Some(Arc::new(Indifferent))));
    bench.session = Some(Session::new(Connection::new(Origin::new(0, Peer::Unix, 7), START), service));
    bench.run();
}

#[test]
fn a_complete_response_is_never_observed_as_cut() {
    let works_on = || {
        let handler = |_: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>| {
            let mut out = out.stream(ResponseHead::new(200).field("Content-Length", "5"))?;
            out.write_all(b"whole")?;
            out.flush()?;
            let _ = body.read(&mut [0]);
            Ok(())
        };
        Bench::new(handler).bytes(0, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
    };
    assert_eq!(cuts(works_on().limits(|limits| limits.request_timeout = ms(1000))), ["200 - 5"]);
    assert_eq!(cuts(works_on().drain(10, 500)), ["200 - 5"]);
    assert_eq!(cuts(works_on().at(30, Event::Reset)), ["200 - 5"]);
}

/// An application that never answers.
struct Waiting;

impl Call for Waiting {
    fn call(self: Arc<Self>, _: Request<Incoming>) -> LocalFuture<Response<Body>> {
        Box::pin(async {
            Gate::default().opened().await;
            unreachable!("nobody opens it")
        })
    }
}

/// The reports of responses that were cut: status, reason, bytes of content.
#[derive(Debug, Default)]
struct Cuts(Log);

impl Observer for Cuts {
    fn answered(&self, answered: &Answered<'_>) {
        let cut = answered.cut.map_or(if answered.closes { "-" } else { "+" }, Cut::word);
        let status = answered.status.unwrap_or_default();
        self.0.lock().expect("not poisoned").push(format!("{status} {cut} {}", answered.sent));
    }
}

/// The reports of requests that were cut on `bench`.
fn cuts(bench: Bench) -> Vec<String> {
    let cuts = Cuts::default();
    let log = cuts.0.clone();
    bench.serving_as(|service| service.observed_by(Some(Arc::new(cuts)))).run();
    log.lock().expect("not poisoned").to_vec()
}

#[test]
fn an_incomplete_response_is_observed_as_cut() {
    let room = |bench: Bench, room| {
        bench.pipe.0.borrow_mut().room = room;
        bench
    };
    let late = |bench: Bench| bench.limits(|limits| limits.request_timeout = ms(1000));
    assert_eq!(cuts(bench().bytes(0, get("/") + &get("/close"))), ["200 + 5", "200 - 3"]);
    for (word, bench) in [
        ("200 application 4", bench().bytes(0, get("/late-fail"))),
        ("200 application 3", bench().bytes(0, get("/short-body"))),
        ("503 - 31", late(bench()).bytes(0, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")),
        ("0 client 0", Bench::of(App::call(Waiting)).bytes(0, get("/")).at(5, Event::Gone)),
    ] {
        assert_eq!(cuts(bench), [word]);
    }
    for (word, bench) in [
        ("drain", room(short_bench(), 5000).bytes(0, get("/sized?100000")).drain(10, 500)),
        ("drain", room(bench(), 5000).bytes(0, get("/flood?1000")).drain(10, 500)),
        ("client", room(short_bench(), 5000).bytes(0, get("/sized?100000")).at(5, Event::Reset)),
        ("slow", room(short_bench(), 5000).bytes(0, get("/sized?100000"))),
        ("request-timeout", room(late(bench()), 5000).bytes(0, get("/flood?1000"))),
    ] {
        let told = cuts(bench);
        let [line] = &told[..] else { panic!("{word}: {told:?}") };
        let sent = line.strip_prefix(&format!("200 {word} ")).unwrap_or_else(|| panic!("{word}: {line}"));
        let sent: u64 = sent.parse().expect("a number");
        // The queued bytes of a request over its timeout are sent.
        assert!(sent <= 5000 || word == "request-timeout", "{line}");
    }
}

#[test]
fn observations_of_unread_responses_are_ordered_and_bounded() {
    // More responses than are kept unreported: the oldest are reported when they are queued, the
    // last when the connection breaks.
    let bench = short_bench().bytes(0, get("/").repeat(40)).at(50, Event::Reset);
    bench.pipe.0.borrow_mut().room = 0;
    let told = cuts(bench);
    assert_eq!(told.len(), 40);
    assert_eq!(
        (&told[..24], &told[24..]),
        (&vec!["200 + 5".to_owned(); 24][..], &vec!["200 client 0".to_owned(); 16][..])
    );
}

#[test]
fn the_time_that_a_handler_held_the_loop_is_observed() {
    let later = || START + Duration::from_millis(50);
    for bench in [short_bench(), Bench::of(App::call(AtOnce))] {
        let bench = bench.reading(later).bytes(0, get("/")).at(500, Event::Eof);
        let counters = bench.service.counters.clone();
        assert_eq!(account(bench), [r#""GET / HTTP/1.1" "GET" "/" 200 5 0 50 -"#]);
        let tally = counters.tally();
        assert_eq!((tally.took, tally.times[0], tally.times[5]), (50_000_000, 0, 1));
    }
}

/// An application that answers at once.
struct AtOnce;

impl Call for AtOnce {
    fn call(self: Arc<Self>, _: Request<Incoming>) -> LocalFuture<Response<Body>> {
        Box::pin(async { Response::new("hello".into()) })
    }
}
