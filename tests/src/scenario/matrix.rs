//! How each policy ends each connection, for each reason of a drain: a matrix, with the expected
//! results as data.
//!
//! A cell is a policy and the trigger of a drain. Each row has a server of its own, so that
//! connections do not wait for one another on backends with one handler.

use std::ops::Range;
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use super::process::{connection_to, newcomer};
use super::{get, seconds};
use crate::Harness;
use crate::client::{Client, End, PATIENCE};
use crate::probe::connection::{Opened, Seen};
use crate::process::{Process, Server, until};

/// A policy, and how it ends each connection of [`ROWS`].
struct Policy {
    args: &'static [&'static str],
    expected: [Expected; ROWS.len()],
}

/// How a connection ends.
struct Expected {
    /// Whether its request is answered. None: either is right.
    answered: Option<bool>,
    /// Whether the response announces close. None: either is right.
    announced: Option<bool>,
    /// When the connection ends, in seconds after the drain began, unless the deadline comes first.
    ended: Range<f64>,
}

/// How a worker is made to drain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Term,
    Int,
    Ttou,
    /// The worker has served its maximum of requests (D15).
    Recycle,
}

impl Trigger {
    /// How many of [`ROWS`] apply. With [`Trigger::Recycle`] the last does not: its request in
    /// flight is the one that recycles the worker, so the drain may begin before or after the head
    /// of its response.
    fn rows(self) -> usize {
        match self {
            Self::Recycle => ROWS.len() - 1,
            _ => ROWS.len(),
        }
    }

    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Recycle => &["--max-requests", "2", "--max-requests-jitter", "0"],
            _ => &[],
        }
    }
}

/// Longer than the deadline of INT, so that that deadline shows.
const ARGS: &[&str] = &["--keep-alive", "3", "--graceful-timeout", "10"];

/// The deadline that INT sets (D11).
const HURRY: f64 = 2.0;

/// How late the test may notice that a drain has begun.
const EARLY: f64 = 0.4;

/// A margin for a busy machine.
const LATE: f64 = 0.6;

/// States of a connection that was used before: what brings the connection there, and what its
/// client does later.
const ROWS: [fn(&Server, Client) -> Opened; 5] = [
    // Idle.
    |_, client| Opened::new(client),
    // Idle, sends a request after 0.6 s.
    |_, client| Opened::new(client).saying(0.6, get("/")),
    // Half a head, completed after 0.7 s. It was read together with the previous request.
    |_, mut client| {
        client.send(get("/") + "GET / HTTP/1.1\r\nHo");
        assert_eq!(client.response().status, 200);
        Opened::new(client).saying(0.7, "st: test\r\n\r\n")
    },
    // In flight, answered after 0.5 s.
    |server, mut client| {
        server.begin(&mut client, get("/sleep?ms=500"));
        Opened::new(client)
    },
    // In flight, head sent, answered after 0.5 s.
    |server, mut client| {
        server.begin(&mut client, get("/stream?chunks=6&size=10&ms=100"));
        let head = client.head();
        Opened::new(client).with_head(head)
    },
];

/// The same policy for every kind of drain.
macro_rules! all_by {
    ($policy:literal) => {
        &["--drain", $policy, "--drain-reload", $policy, "--drain-recycle", $policy]
    };
}

const FINISH: Policy = Policy {
    args: all_by!("finish"),
    expected: [
        silent(3.0..3.0),
        answered_with_close(0.6),
        answered_with_close(0.7),
        answered_with_close(0.5),
        answered_without_close(3.5..3.5),
    ],
};

const CLOSE_IDLE: Policy = Policy {
    args: all_by!("close-idle"),
    expected: [
        silent(0.0..0.0),
        silent(0.0..0.0),
        answered_with_close(0.7),
        answered_with_close(0.5),
        answered_without_close(0.5..0.5),
    ],
};

const GRACE: Policy = Policy {
    args: all_by!("grace:1s"),
    expected: [
        silent(1.0..1.0),
        answered_with_close(0.6),
        answered_with_close(0.7),
        answered_with_close(0.5),
        answered_without_close(1.5..1.5),
    ],
};

/// Under `spread`, the moment of each close is random, and so is whether a response announces it
/// first.
const SPREAD: Policy = Policy {
    args: all_by!("spread:2s"),
    expected: [
        silent(0.0..2.0),
        Expected { answered: None, announced: None, ended: 0.0..2.0 },
        Expected { answered: Some(true), announced: None, ended: 0.7..2.0 },
        Expected { answered: Some(true), announced: None, ended: 0.5..2.0 },
        answered_without_close(0.5..2.0),
    ],
};

/// Sends no request, and ends at `ended`.
const fn silent(ended: Range<f64>) -> Expected {
    Expected { answered: Some(false), announced: None, ended }
}

/// Is answered with close announced, and ends with that response.
const fn answered_with_close(at: f64) -> Expected {
    Expected { answered: Some(true), announced: Some(true), ended: at..at }
}

/// Is answered with a head that was sent before the drain and does not announce close, and ends at
/// `ended`.
const fn answered_without_close(ended: Range<f64>) -> Expected {
    Expected { answered: Some(true), announced: Some(false), ended }
}

macro_rules! cells {
    ($($name:ident: $policy:ident, $trigger:ident;)+) => {
        $(pub(crate) fn $name(harness: &Harness) {
            cell(harness, &$policy, Trigger::$trigger);
        })+
    };
}

cells! {
    finish_at_term: FINISH, Term;
    finish_at_int: FINISH, Int;
    finish_at_ttou: FINISH, Ttou;
    finish_at_recycling: FINISH, Recycle;
    close_idle_at_term: CLOSE_IDLE, Term;
    close_idle_at_int: CLOSE_IDLE, Int;
    close_idle_at_ttou: CLOSE_IDLE, Ttou;
    close_idle_at_recycling: CLOSE_IDLE, Recycle;
    grace_at_term: GRACE, Term;
    grace_at_int: GRACE, Int;
    grace_at_ttou: GRACE, Ttou;
    grace_at_recycling: GRACE, Recycle;
    spread_at_term: SPREAD, Term;
    spread_at_int: SPREAD, Int;
    spread_at_ttou: SPREAD, Ttou;
    spread_at_recycling: SPREAD, Recycle;
}

fn cell(harness: &Harness, policy: &Policy, trigger: Trigger) {
    thread::scope(|scope| {
        let rows: Vec<_> = ROWS
            .iter()
            .take(trigger.rows())
            .map(|open| scope.spawn(|| Draining::of(harness, policy, trigger).watch(*open)))
            .collect();
        for (n, (row, expected)) in rows.into_iter().zip(&policy.expected).enumerate() {
            let seen = row.join().expect("the watching thread does not panic");
            expected.check(n, trigger, &seen);
        }
    });
}

/// A server, with the worker that is about to drain.
struct Draining {
    server: Server,
    worker: Process,
    trigger: Trigger,
}

impl Draining {
    fn of(harness: &Harness, policy: &Policy, trigger: Trigger) -> Self {
        let server = harness.serve(&[ARGS, policy.args, trigger.args()].concat());
        let first = server.worker();
        if trigger != Trigger::Ttou {
            return Self { server, worker: first, trigger };
        }
        server.arbiter().signal(Signal::TTIN);
        let worker = newcomer(server.workers(2), &[first]).expect("one of the two workers is new");
        Self { server, worker, trigger }
    }

    fn watch(mut self, open: fn(&Server, Client) -> Opened) -> Seen {
        let opened = open(&self.server, connection_to(&self.server, &self.worker));
        let start = self.begin();
        let seen = opened.watch(start);
        assert!(self.worker.wait_gone(seconds(1.0)), "the worker outlives its connections: {seen}");
        if matches!(self.trigger, Trigger::Term | Trigger::Int) {
            assert_eq!(self.server.exit(PATIENCE), 0);
        }
        seen
    }

    /// Makes the worker drain, and returns when that began.
    fn begin(&self) -> Instant {
        let start = Instant::now();
        self.server.arbiter().signal(match self.trigger {
            Trigger::Term => Signal::TERM,
            Trigger::Int => Signal::INT,
            Trigger::Ttou => Signal::TTOU,
            Trigger::Recycle => {
                // Unless a request on another connection was the worker's last, the first of these
                // requests is. The last of them may be on one of the new connections that the
                // policy closes.
                let replaced = || {
                    let mut client = self.server.connect();
                    client.send(get("/info"));
                    let served_by = client.try_response().ok()?.number("pid");
                    (served_by != self.worker.id()).then(Instant::now)
                };
                return until(PATIENCE, replaced).expect("a worker that has served enough is replaced");
            }
        });
        start
    }
}

impl Expected {
    #[track_caller]
    fn check(&self, row: usize, trigger: Trigger, seen: &Seen) {
        let deadline = if trigger == Trigger::Int { HURRY } else { f64::INFINITY };
        let ended = self.ended.start.min(deadline) - EARLY..self.ended.end.min(deadline) + LATE;
        let answered = !seen.answers.is_empty();
        let as_expected = self.answered.is_none_or(|expected| expected == answered)
            && seen.answers.iter().all(|status| *status == 200)
            && !seen.cut
            && (!answered || self.announced.is_none_or(|expected| expected == seen.announced))
            && seen.end == End::Fin
            && ended.contains(&seen.ended);
        assert!(as_expected, "row {row}: {seen}; expected the end at {ended:?}");
    }
}
