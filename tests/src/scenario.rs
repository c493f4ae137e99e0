//! The scenarios, a file for each subject, and the words that they share.
//!
//! Limits on what should happen at once are generous, so that a busy machine does not fail a run; limits that the
//! contract names are asserted with a margin, and the measured time is in the message.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::client::{Client, End, PATIENCE, Response};
use crate::process::allow_descriptors;

pub(crate) mod admin;
pub(crate) mod backlog;
pub(crate) mod control;
pub(crate) mod deadline;
pub(crate) mod drain;
pub(crate) mod framing;
pub(crate) mod front;
pub(crate) mod half_close;
#[path = "scenario/handoff.rs"]
pub(crate) mod hand_off;
pub(crate) mod heartbeat;
pub(crate) mod hooks;
pub(crate) mod keep_alive;
pub(crate) mod lameduck;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod logs;
pub(crate) mod matrix;
pub(crate) mod message;
pub(crate) mod overtime;
pub(crate) mod policy;
pub(crate) mod preload;
pub(crate) mod process;
pub(crate) mod recycle;
pub(crate) mod reload;
pub(crate) mod reuse_port;
pub(crate) mod robust;
pub(crate) mod semantics;
pub(crate) mod streaming;
pub(crate) mod timeouts;
pub(crate) mod upgrade;
pub(crate) mod upgrade_binary;
pub(crate) mod vanish;

/// A request for `path`.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// The head of a request for `path` with `len` bytes that no handler reads (RFC 9110 §9.3.1).
pub(crate) fn get_with_body(path: &str, len: usize) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n")
}

/// The head of a request that sends `len` bytes to `path`.
fn post(path: &str, len: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n")
}

/// The head of a request that sends chunks to `path`.
fn post_chunks(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

impl Client {
    /// Asks for `path` and is answered with 200.
    #[track_caller]
    fn get(&mut self, path: &str) -> Response {
        self.send(get(path));
        let response = self.response();
        assert_eq!(response.status, 200, "{path}: {response:?}");
        response
    }

    /// The next response has `status`, announces close, and is followed by the end of the connection.
    #[track_caller]
    fn last_response(&mut self, status: u16) -> Response {
        let response = self.response();
        assert_eq!(response.status, status, "{response:?}");
        assert!(response.announces_close(), "close is not announced: {response:?}");
        assert_eq!(self.end(PATIENCE), End::Fin);
        response
    }
}

/// Asserts how long something took, in seconds.
#[track_caller]
fn took(what: &str, since: Instant, expected: Range<f64>) {
    let took = since.elapsed().as_secs_f64();
    assert!(expected.contains(&took), "{what} after {took:.3} s, expected {expected:?}");
}
