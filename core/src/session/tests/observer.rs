//! What an observer is told: each request once, and what has become of it.

use std::sync::Arc;

use http::{Request, Response};

use super::*;
use crate::app::{Answered, App, Body, Call, Incoming, LocalFuture, Observer};
use crate::conn::Connection;
use crate::handoff::{Origin, Peer};
use crate::session::Session;
use crate::testing::{Event, Gate, START};

/// Writes down what it is told.
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

/// What an observer is told of all that happens on `bench`.
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
fn each_answer_is_told_with_its_status_and_its_content() {
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
fn an_answer_takes_until_its_end() {
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    let told = account(bench().bytes(5, head).bytes(250, "four").at(300, Event::Eof));
    assert_eq!(told, [r#""POST /echo HTTP/1.1" "POST" "/echo" 200 4 5 245 -"#]);
}

#[test]
fn an_error_of_the_application_is_told_as_the_client_sees_it() {
    let told = |target| account(bench().bytes(0, get(target)).at(9, Event::Eof));
    assert_eq!(told("/panic"), [r#""GET /panic HTTP/1.1" "GET" "/panic" 500 22 0 0 text/plain"#]);
    assert_eq!(told("/late-fail"), [r#""GET /late-fail HTTP/1.1" "GET" "/late-fail" 200 4 0 0 -"#]);
}

#[test]
fn a_refused_request_is_told_as_far_as_it_is_understood() {
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
fn what_never_was_a_request_is_not_told() {
    assert_eq!(account(bench().bytes(0, "GET / HT").at(9, Event::Eof)), [""; 0]);
    assert_eq!(account(bench().at(9, Event::Eof)), [""; 0]);
}

#[test]
fn an_upgraded_connection_is_told_when_it_ends() {
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
fn what_the_drains_deadline_cuts_is_told_as_cut() {
    // Before its response has begun, the client is told 503; afterwards what has left counts.
    let told = account(Bench::of(App::call(Waiting)).bytes(0, get("/")).drain(10, 500));
    assert_eq!(told, [r#""GET / HTTP/1.1" "GET" "/" 503 23 0 500 text/plain"#]);

    let slow = bench().bytes(0, get("/flood?1000")).drain(10, 500);
    slow.pipe.0.borrow_mut().room = 5000;
    let [line] = &account(slow)[..] else { panic!("one request is told once") };
    let (before, after) = (r#""GET /flood?1000 HTTP/1.1" "GET" "/flood?1000" 200 "#, " 0 500 -");
    let sent = line.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    let sent: u64 = sent.unwrap_or_else(|| panic!("{line}")).parse().expect("a number");
    assert!((4000..=5000).contains(&sent), "{sent} of 5000 bytes of head, chunks and content");
}

#[test]
fn fields_that_nobody_wants_are_not_kept() {
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
