//! What a policy makes of each connection, whatever the reason for the drain: a matrix, with the expected as data.
//!
//! A cell is a policy and a way to make a worker drain. Each row has a server of its own, so that connections do not
//! wait for one another where only one handler can run.

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

/// A policy, and what it makes of each of [`ROWS`].
struct Policy {
    args: &'static [&'static str],
    fates: [Fate; ROWS.len()],
}

/// What becomes of a connection.
struct Fate {
    /// Whether its request is answered; either may be, where nothing is said.
    answered: Option<bool>,
    /// Whether the answer announces the close.
    announced: Option<bool>,
    /// When the connection ends, in seconds after the drain began, unless the deadline comes first.
    ended: Range<f64>,
}

/// How a worker is made to drain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Term,
    Int,
    Ttou,
    /// It has served what it may (D15).
    Recycle,
}

impl Way {
    /// How many of [`ROWS`] there are. Where the request in flight is what recycles its worker, nobody knows whether the
    /// drain or the head of its response comes first.
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

/// Longer than the deadline that INT gives, so that it is seen.
const ARGS: &[&str] = &["--keep-alive", "3", "--graceful-timeout", "10"];

/// The deadline that INT gives (D11).
const HURRY: f64 = 2.0;

/// How much later than it began a drain may be noticed to have.
const EARLY: f64 = 0.4;

/// What a busy machine may add.
const LATE: f64 = 0.6;

/// States of a connection that has been used before: what brings it there, and what its client does later.
const ROWS: [fn(&Server, Client) -> Opened; 5] = [
    // Idle.
    |_, client| Opened::new(client),
    // Idle, speaks after 0.6 s.
    |_, client| Opened::new(client).saying(0.6, get("/")),
    // Half a head, completed after 0.7 s. It was read together with the request before.
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

/// Every drain, whatever its reason, by the same policy.
macro_rules! all_by {
    ($policy:literal) => {
        &["--drain", $policy, "--drain-reload", $policy, "--drain-recycle", $policy]
    };
}

const FINISH: Policy = Policy {
    args: all_by!("finish"),
    fates: [silent(3.0..3.0), told(0.6), told(0.7), told(0.5), untold(3.5..3.5)],
};

const CLOSE_IDLE: Policy = Policy {
    args: all_by!("close-idle"),
    fates: [silent(0.0..0.0), silent(0.0..0.0), told(0.7), told(0.5), untold(0.5..0.5)],
};

const GRACE: Policy = Policy {
    args: all_by!("grace:1s"),
    fates: [silent(1.0..1.0), told(0.6), told(0.7), told(0.5), untold(1.5..1.5)],
};

/// The moment at which a connection is closed is its own, and so is whether it is told before.
const SPREAD: Policy = Policy {
    args: all_by!("spread:2s"),
    fates: [
        silent(0.0..2.0),
        Fate { answered: None, announced: None, ended: 0.0..2.0 },
        Fate { answered: Some(true), announced: None, ended: 0.7..2.0 },
        Fate { answered: Some(true), announced: None, ended: 0.5..2.0 },
        untold(0.5..2.0),
    ],
};

/// It is not asked anything, and ends then.
const fn silent(ended: Range<f64>) -> Fate {
    Fate { answered: Some(false), announced: None, ended }
}

/// It is answered and told of the close, and ends with that.
const fn told(at: f64) -> Fate {
    Fate { answered: Some(true), announced: Some(true), ended: at..at }
}

/// It is answered, by a head that knew nothing of the drain, and ends then.
const fn untold(ended: Range<f64>) -> Fate {
    Fate { answered: Some(true), announced: Some(false), ended }
}

macro_rules! cells {
    ($($name:ident: $policy:ident, $way:ident;)+) => {
        $(pub(crate) fn $name(harness: &Harness) {
            cell(harness, &$policy, Way::$way);
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

fn cell(harness: &Harness, policy: &Policy, way: Way) {
    thread::scope(|scope| {
        let rows: Vec<_> = ROWS
            .iter()
            .take(way.rows())
            .map(|open| scope.spawn(|| Draining::of(harness, policy, way).watch(*open)))
            .collect();
        for (n, (row, fate)) in rows.into_iter().zip(&policy.fates).enumerate() {
            let seen = row.join().expect("whoever watches does not panic");
            fate.check(n, way, &seen);
        }
    });
}

/// A server with the worker that is going to drain.
struct Draining {
    server: Server,
    worker: Process,
    way: Way,
}

impl Draining {
    fn of(harness: &Harness, policy: &Policy, way: Way) -> Self {
        let server = harness.serve(&[ARGS, policy.args, way.args()].concat());
        let first = server.worker();
        if way != Way::Ttou {
            return Self { server, worker: first, way };
        }
        server.arbiter().signal(Signal::TTIN);
        let worker = newcomer(server.workers(2), &[first]).expect("two workers are not one");
        Self { server, worker, way }
    }

    fn watch(mut self, open: fn(&Server, Client) -> Opened) -> Seen {
        let opened = open(&self.server, connection_to(&self.server, &self.worker));
        let start = self.begin();
        let seen = opened.watch(start);
        assert!(self.worker.wait_gone(seconds(1.0)), "the worker outlives its connections: {seen}");
        if matches!(self.way, Way::Term | Way::Int) {
            assert_eq!(self.server.exit(PATIENCE), 0);
        }
        seen
    }

    /// Makes the worker drain, and says since when it does.
    fn begin(&self) -> Instant {
        let start = Instant::now();
        self.server.arbiter().signal(match self.way {
            Way::Term => Signal::TERM,
            Way::Int => Signal::INT,
            Way::Ttou => Signal::TTOU,
            Way::Recycle => {
                // If nobody else's request was the last that it may serve, the first of these is. The last of them may be
                // one of the new connections that the policy closes.
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

impl Fate {
    #[track_caller]
    fn check(&self, row: usize, way: Way, seen: &Seen) {
        let deadline = if way == Way::Int { HURRY } else { f64::INFINITY };
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
