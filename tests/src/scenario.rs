//! The scenarios, a file for each subject, and the helpers that they share.
//!
//! Limits on what should happen at once are generous, so that a busy machine does not fail a run.
//! Limits that the contract names are asserted with a margin, and the failure message has the
//! measured time.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::client::{Client, End, PATIENCE, Response};
use crate::process::allow_descriptors;

pub(crate) mod activity;
pub(crate) mod admin;
pub(crate) mod after;
pub(crate) mod backlog;
pub(crate) mod control;
pub(crate) mod deadline;
pub(crate) mod drain;
pub(crate) mod ending;
pub(crate) mod framing;
pub(crate) mod freeze;
pub(crate) mod front;
pub(crate) mod half_close;
pub(crate) mod handoff;
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
pub(crate) mod remote;
pub(crate) mod rescue;
pub(crate) mod reuse_port;
pub(crate) mod robust;
pub(crate) mod semantics;
pub(crate) mod streaming;
pub(crate) mod streams;
pub(crate) mod timeouts;
pub(crate) mod unread;
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
    /// Requests `path` and returns the response, which has status 200.
    #[track_caller]
    fn get(&mut self, path: &str) -> Response {
        self.send(get(path));
        let response = self.response();
        assert_eq!(response.status, 200, "{path}: {response:?}");
        response
    }

    /// Asserts that the next response has `status` and announces close, and that the connection
    /// then ends.
    #[track_caller]
    fn last_response(&mut self, status: u16) -> Response {
        let response = self.response();
        assert_eq!(response.status, status, "{response:?}");
        assert!(response.announces_close(), "close is not announced: {response:?}");
        assert_eq!(self.end(PATIENCE), End::Fin);
        response
    }
}

/// Asserts that the time since `since` lies in `expected`, in seconds.
#[track_caller]
fn took(what: &str, since: Instant, expected: Range<f64>) {
    let took = since.elapsed().as_secs_f64();
    assert!(expected.contains(&took), "{what} after {took:.3} s, expected {expected:?}");
}
