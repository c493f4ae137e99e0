//! Handlers that run on after their response: the response is sent at once, and a drain waits for
//! the handler.

use std::time::Instant;

use super::{get, logs, seconds, took};
use crate::Harness;
use crate::client::PATIENCE;
use crate::process::until;

/// Values of `--request-timeout`. Without a limit (0), a handler's thread holds its connection
/// throughout. With one, it takes hold of the connection for each call.
const LIMITS: [&str; 2] = ["0", "20"];

pub(crate) fn a_complete_response_is_sent_while_its_handler_runs_on(harness: &Harness) {
    for limit in LIMITS {
        let server = harness.serve(&["--request-timeout", limit]);
        for path in ["/after", "/after/length", "/after/finish"] {
            let mut client = server.connect();
            let start = Instant::now();
            let before = server.log().matches("<worked>").count();
            client.send(get(&format!("{path}?ms=1500")));
            assert_eq!(client.response().text(), "in time\n", "{path}");
            took(path, start, 0.0..1.4);
            // The connection is reused once the handler has returned.
            client.get("/");
            let has_worked = || (server.log().matches("<worked>").count() == before + 1).then_some(());
            assert!(until(PATIENCE, has_worked).is_some(), "{path}");
        }
    }
}

pub(crate) fn buffered_pieces_are_sent_while_the_handler_writes_on(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    let start = Instant::now();
    client.send(get("/after/pieces?ms=1500"));
    let mut response = client.head();
    assert_eq!(response.status, 200);
    if response.field("content-length").is_none() {
        let mut begun = Vec::new();
        while begun != b"in time\n" {
            begun.extend(client.chunk().expect("it is well-formed").expect("it has not ended"));
        }
    }
    took("the first pieces came", start, 0.0..1.4);
    client.body(&mut response);
}

pub(crate) fn d5_work_after_a_response_is_finished_in_a_drain(harness: &Harness) {
    for limit in LIMITS {
        let mut server = harness.serve(&["--request-timeout", limit]);
        let mut client = server.connect();
        client.send(get("/after?ms=1500"));
        assert_eq!(client.response().text(), "in time\n");
        let start = server.drain();
        assert!(!server.log().contains("<worked>"), "the handler ended before the drain");
        drop(client);
        assert_eq!(server.exit(PATIENCE), 0);
        took("the server ended", start, 0.2..5.0);
        assert!(server.logs("<worked>", seconds(1.0)), "the work is lost");
        assert!(server.logs("aborted=0 cut=0", seconds(1.0)), "{}", server.log());
    }
}

pub(crate) fn a_complete_response_is_not_logged_as_cut_by_a_timeout(harness: &Harness) {
    let log = ["--access-logfile", "access.log", "--access-logformat", "json", "--request-timeout", "1"];
    for path in ["/after", "/after/length", "/after/finish"] {
        let server = harness.serve(&log);
        let mut client = server.connect();
        client.send(get(&format!("{path}?ms=3000")));
        assert_eq!(client.response().text(), "in time\n", "{path}");
        assert!(server.logs("handler exceeded request-timeout", PATIENCE), "{}", server.log());
        let line: serde_json::Value =
            serde_json::from_str(&logs::lines(server.dir(), "access.log", 1)[0]).expect("it is JSON");
        assert_eq!(
            (&line["status"], &line["cut"]),
            (&200.into(), &serde_json::Value::Null),
            "{path}: {line}"
        );
        assert!(!server.log().contains("response cut"), "{path}: {}", server.log());
    }
}
