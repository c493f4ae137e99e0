//! One connection, from the drain order of its worker until it has ended.

use std::fmt;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Broken, Client, End, PATIENCE, Response};

/// A connection in the state to observe.
#[derive(Debug)]
pub(crate) struct Opened {
    client: Client,
    /// The head of a response that has begun.
    head: Option<Response>,
    /// Statuses of earlier responses that belong to the observation.
    before: Vec<u16>,
    later: Later,
}

/// What the client does in the drain.
#[derive(Debug)]
enum Later {
    Nothing,
    /// Sends this after so many seconds.
    Says(f64, String),
    /// Sends so many blocks of 16 KiB, one every 10 ms.
    Uploads(usize),
}

/// What the client has observed, with times in seconds.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Seen {
    /// The status of each response.
    pub(crate) answers: Vec<u16>,
    /// The last response did not arrive whole.
    pub(crate) cut: bool,
    /// The last response announced close.
    pub(crate) announced: bool,
    /// When the last response was complete.
    pub(crate) answered: Option<f64>,
    /// How the connection ended.
    pub(crate) end: End,
    /// When the connection ended.
    pub(crate) ended: f64,
    /// The server's exit status.
    pub(crate) status: Option<i32>,
    /// When the server exited.
    pub(crate) gone: Option<f64>,
}

impl Opened {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, head: None, before: Vec::new(), later: Later::Nothing }
    }

    /// The response with this head is under way.
    pub(crate) fn with_head(self, head: Response) -> Self {
        Self { head: Some(head), ..self }
    }

    /// A response with this status has arrived, and is the one to observe.
    pub(crate) fn answered(mut self, status: u16) -> Self {
        self.before.push(status);
        self
    }

    /// Sends `bytes` so many seconds into the drain, if the connection is still open.
    pub(crate) fn saying(self, after: f64, bytes: impl Into<String>) -> Self {
        Self { later: Later::Says(after, bytes.into()), ..self }
    }

    /// Sends so many blocks of 16 KiB, one every 10 ms.
    pub(crate) fn uploading(self, blocks: usize) -> Self {
        Self { later: Later::Uploads(blocks), ..self }
    }

    /// Follows the connection to its end.
    pub(crate) fn watch(self, start: Instant) -> Seen {
        let Self { mut client, head, before, later } = self;
        let sender = client.sender();
        thread::scope(|scope| {
            let sent = scope.spawn(move || later.send(sender, start));
            let seen = Seen::of(&mut client, head, before, start);
            match sent.join().expect("sending does not panic") {
                Err(_) => Seen { end: End::Reset, ..seen },
                Ok(()) => seen,
            }
        })
    }
}

impl Later {
    /// An error is a reset, which a client learns of when it sends.
    fn send(self, mut to: impl Write, start: Instant) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Says(after, bytes) => {
                thread::sleep(Duration::from_secs_f64(after).saturating_sub(start.elapsed()));
                // If the connection has ended before, the observation shows that.
                to.write_all(bytes.as_bytes()).or(Ok(()))
            }
            Self::Uploads(blocks) => (0..blocks).try_for_each(|_| {
                thread::sleep(Duration::from_millis(10));
                to.write_all(&BLOCK)
            }),
        }
    }
}

/// A block of an upload.
pub(crate) const BLOCK: [u8; 16 * 1024] = [b'x'; 16 * 1024];

impl Seen {
    fn of(client: &mut Client, head: Option<Response>, before: Vec<u16>, start: Instant) -> Self {
        let at = || start.elapsed().as_secs_f64();
        let mut seen = Self {
            announced: false,
            answered: before.first().map(|_| 0.0),
            answers: before,
            cut: false,
            end: End::StillOpen,
            ended: 0.0,
            status: None,
            gone: None,
        };
        if seen.answers == [101] {
            (seen.end, seen.ended) = (client.end(PATIENCE), at());
            return seen;
        }
        let mut next = head.map_or_else(|| client.try_head(), Ok);
        loop {
            let broken = match next {
                Ok(mut response) => {
                    seen.answers.push(response.status);
                    seen.announced = response.announces_close();
                    match client.try_body(&mut response) {
                        Ok(()) => {
                            seen.answered = Some(at());
                            next = client.try_head();
                            continue;
                        }
                        Err(broken) => {
                            seen.cut = true;
                            broken
                        }
                    }
                }
                Err(broken) => broken,
            };
            let Broken::Cut { end, unread } = broken else { panic!("{broken}") };
            seen.cut |= !unread.is_empty();
            return Self { end, ended: at(), ..seen };
        }
    }

    /// Whether it equals `other`, with times that differ by at most `tolerance` seconds.
    pub(crate) fn is_like(&self, other: &Self, tolerance: f64) -> bool {
        let near =
            |(a, b): (Option<f64>, Option<f64>)| a.zip(b).is_none_or(|(a, b)| (a - b).abs() <= tolerance);
        self.words() == other.words() && self.moments().into_iter().zip(other.moments()).all(near)
    }

    /// Whether its times are close to printed ones.
    pub(crate) fn is_at(&self, times: &str, tolerance: f64) -> bool {
        let printed = times.split(" / ").map(|time| time.parse().ok());
        times.is_empty() // after the last column
            || printed.zip(self.moments()).all(|times: (Option<f64>, Option<f64>)| match times {
                (Some(a), Some(b)) => (a - b).abs() <= tolerance,
                (a, b) => a == b,
            })
    }

    fn moments(&self) -> [Option<f64>; 3] {
        [self.answered, Some(self.ended), self.gone]
    }

    /// Everything but the times: answers, whether close was announced, how the connection ended,
    /// the exit status.
    pub(crate) fn words(&self) -> [String; 4] {
        let mut answers: Vec<_> = self.answers.iter().map(u16::to_string).collect();
        if self.cut {
            answers.push("cut off".into());
        }
        let announced = match (answers.is_empty(), self.announced) {
            (true, _) => "–",
            (false, true) => "yes",
            (false, false) => "no",
        };
        let end = match self.end {
            End::Fin => "FIN",
            End::Reset => "reset",
            End::StillOpen => "nothing",
        };
        let answers = if answers.is_empty() { "none".into() } else { answers.join(", ") };
        [
            answers,
            announced.into(),
            end.into(),
            self.status.map_or_else(|| "–".into(), |status| status.to_string()),
        ]
    }

    /// When the last answer was complete, when the connection ended, and when the server had
    /// exited.
    pub(crate) fn times(&self) -> String {
        self.moments().map(|at| at.map_or_else(|| "–".into(), |at| format!("{at:.1}"))).join(" / ")
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [answers, announced, end, status] = self.words();
        let times = self.times();
        write!(f, "answers {answers}, announced {announced}, end {end}, status {status}, at {times} s")
    }
}
