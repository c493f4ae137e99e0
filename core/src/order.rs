//! The messages between the arbiter and one worker, on the worker's order socket.
//!
//! The socket keeps message boundaries (`SOCK_SEQPACKET`), so one message is one packet. Both ends
//! are of one build, or of two builds that meet in an upgrade: each message begins with a version
//! byte, and an unknown version is refused. Numbers are little-endian. Times are [`Time`], which
//! all processes share.

use std::iter;
use std::str::FromStr;

use thiserror::Error;

use crate::shutdown::{Drain, Phase, Reason};
use crate::time::Time;

/// The version of the messages below.
pub const VERSION: u8 = 1;

/// A size that holds any message, in bytes.
pub const MESSAGE_MAX: usize = 1024;

/// How many frames of a stack fit into a message.
pub const FRAMES_MAX: usize = 126;

/// An order of the arbiter to a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Order {
    /// Enter this drain, or merge it into the current one.
    Drain {
        /// Reason, deadline and receiver.
        drain: Drain,
        /// Which of the worker's policies decides.
        policy: PolicyId,
    },
    /// The last connection of the backlog has been passed on (D4). The inbox receives no more of
    /// them.
    BacklogEnd,
    /// The log files may have been moved away: continue in new files, whose descriptors come with
    /// this message (unix(7), `SCM_RIGHTS`).
    ReopenLogs,
    /// Log events from this level on.
    LogLevel(Level),
}

/// A report of a worker to the arbiter.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Report {
    /// The application is loaded and the worker accepts.
    Ready,
    /// The worker should be replaced, for this reason. It serves until its drain order.
    Recycle {
        /// The reason.
        reason: Reason,
    },
    /// A signal made this worker drain: it accepts no new connections.
    Draining,
    /// The worker or its application could not start. The process exits with `status`.
    BootFailed {
        /// 3 for the worker, 4 for the application.
        status: u8,
        /// The reason, as text, cut to fit a message.
        message: String,
    },
    /// A signal asked this worker alone to reopen its logs, which only the arbiter can open.
    ReopenLogs,
    /// The worker is about to abort, and this is the stack of one of its threads.
    Stack(Stack),
}

/// The stack of a thread in a worker that was told to abort: the loop's thread, or one that runs a
/// handler.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a message, which both ends write out")]
pub struct Stack {
    /// Whether it is the loop's thread.
    pub on_loop: bool,
    /// When its handler began, as the handler's [`Busy`](crate::app::Busy) says. None if it runs
    /// none.
    pub since: Option<Time>,
    /// Code addresses, innermost first. Arbiter and workers have the program at the same addresses.
    pub frames: Vec<u64>,
}

/// The severity of an event, the most severe first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "the levels of `tracing`")]
pub enum Level {
    /// Something has failed.
    Error = 0,
    /// Something is not as it should be.
    Warn = 1,
    /// Information for operators.
    Info = 2,
    /// Information for finding a fault.
    Debug = 3,
    /// Everything.
    Trace = 4,
}

impl Level {
    /// All levels.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Its name, as in the settings.
    pub fn name(self) -> &'static str {
        ["error", "warn", "info", "debug", "trace"][self as usize]
    }
}

impl FromStr for Level {
    type Err = ();

    /// The level of that name.
    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or(())
    }
}

/// Identifies a policy by its place in the list that arbiter and workers were configured with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum PolicyId {
    /// `--drain`: for stops, and the fallback of every other policy.
    #[default]
    Stop = 0,
    /// `--drain-reload`: for reloads, upgrades and scale-down.
    Reload = 1,
    /// `--drain-recycle`: for recycling.
    Recycle = 2,
}

/// Why a message could not be decoded.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Another version wrote it.
    #[error("message of version {found}, this program speaks {VERSION}")]
    Version {
        /// The version byte.
        found: u8,
    },
    /// No message begins like this.
    #[error("unknown message kind {kind}")]
    Kind {
        /// The kind byte.
        kind: u8,
    },
    /// The message is too short, too long, or has a value out of range.
    #[error("malformed message of {len} bytes")]
    Malformed {
        /// Its length.
        len: usize,
    },
}

const DRAIN: u8 = 1;
const BACKLOG_END: u8 = 2;
const REOPEN_LOGS: u8 = 3;
const LOG_LEVEL: u8 = 4;
const READY: u8 = 1;
const BOOT_FAILED: u8 = 2;
const RECYCLE: u8 = 3;
const DRAINING: u8 = 4;
const STACK: u8 = 5;
const ASK_FOR_LOGS: u8 = 6;

impl Order {
    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Drain { drain, policy } => {
                let mut out = vec![
                    VERSION,
                    DRAIN,
                    drain.reason as u8,
                    drain.phase as u8,
                    u8::from(drain.receiver),
                    *policy as u8,
                ];
                out.extend_from_slice(&drain.since.as_nanos().to_le_bytes());
                out.extend_from_slice(&drain.deadline.as_nanos().to_le_bytes());
                out
            }
            Self::BacklogEnd => vec![VERSION, BACKLOG_END],
            Self::ReopenLogs => vec![VERSION, REOPEN_LOGS],
            Self::LogLevel(level) => vec![VERSION, LOG_LEVEL, *level as u8],
        }
    }

    /// Decodes a message.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Malformed { len: bytes.len() };
        match split(bytes)? {
            (DRAIN, body) => drain(body).ok_or(malformed),
            (BACKLOG_END, []) => Ok(Self::BacklogEnd),
            (REOPEN_LOGS, []) => Ok(Self::ReopenLogs),
            (LOG_LEVEL, [level]) => {
                Level::ALL.get(usize::from(*level)).map(|level| Self::LogLevel(*level)).ok_or(malformed)
            }
            (BACKLOG_END | REOPEN_LOGS | LOG_LEVEL, _) => Err(malformed),
            (kind, _) => Err(DecodeError::Kind { kind }),
        }
    }
}

impl Report {
    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready => vec![VERSION, READY],
            Self::Recycle { reason } => vec![VERSION, RECYCLE, *reason as u8],
            Self::Draining => vec![VERSION, DRAINING],
            Self::ReopenLogs => vec![VERSION, ASK_FOR_LOGS],
            Self::BootFailed { status, message } => {
                let mut out = vec![VERSION, BOOT_FAILED, *status];
                let end = prefix(message, MESSAGE_MAX - out.len());
                out.extend_from_slice(&message.as_bytes()[..end]);
                out
            }
            Self::Stack(Stack { on_loop, since, frames }) => {
                encode_stack(*on_loop, *since, frames, &mut [0; MESSAGE_MAX]).to_vec()
            }
        }
    }

    /// Decodes a message.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Malformed { len: bytes.len() };
        match split(bytes)? {
            (READY, []) => Ok(Self::Ready),
            (BOOT_FAILED, [status, message @ ..]) => Ok(Self::BootFailed {
                status: *status,
                message: String::from_utf8_lossy(message).into_owned(),
            }),
            (RECYCLE, [reason]) => {
                Reason::from_u8(*reason).map(|reason| Self::Recycle { reason }).ok_or(malformed)
            }
            (DRAINING, []) => Ok(Self::Draining),
            (ASK_FOR_LOGS, []) => Ok(Self::ReopenLogs),
            (STACK, body) => stack(body).ok_or(malformed),
            (READY | BOOT_FAILED | RECYCLE | DRAINING | ASK_FOR_LOGS, _) => Err(malformed),
            (kind, _) => Err(DecodeError::Kind { kind }),
        }
    }
}

/// Encodes a [`Report::Stack`] into `out` without an allocation, so that a signal handler can send
/// it. Frames that do not fit are left out.
pub fn encode_stack<'a>(
    on_loop: bool,
    since: Option<Time>,
    frames: &[u64],
    out: &'a mut [u8; MESSAGE_MAX],
) -> &'a [u8] {
    out[..3].copy_from_slice(&[VERSION, STACK, u8::from(on_loop)]);
    let since = since.unwrap_or_default().as_nanos();
    let (places, _) = out[3..].as_chunks_mut::<8>();
    let words = iter::once(&since).chain(frames.iter().take(FRAMES_MAX));
    let len = words.zip(places).map(|(word, place)| *place = word.to_le_bytes()).count();
    &out[..3 + 8 * len]
}

impl PolicyId {
    /// The policy of drains for `reason`.
    pub fn of(reason: Reason) -> Self {
        match reason {
            reason if reason.is_stop() => Self::Stop,
            reason if reason.is_recycle() => Self::Recycle,
            _ => Self::Reload,
        }
    }

    fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Stop,
            1 => Self::Reload,
            2 => Self::Recycle,
            _ => return None,
        })
    }
}

fn split(bytes: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    match bytes {
        [VERSION, kind, body @ ..] => Ok((*kind, body)),
        [found, _, ..] => Err(DecodeError::Version { found: *found }),
        _ => Err(DecodeError::Malformed { len: bytes.len() }),
    }
}

fn stack(body: &[u8]) -> Option<Report> {
    let (on_loop, words) = body.split_first()?;
    let (words, []) = words.as_chunks::<8>() else { return None };
    let (since, frames) = words.split_first()?;
    Some(Report::Stack(Stack {
        on_loop: match on_loop {
            0 => false,
            1 => true,
            _ => return None,
        },
        since: Some(Time::from_nanos(u64::from_le_bytes(*since))).filter(|since| *since > Time::ZERO),
        frames: frames.iter().map(|word| u64::from_le_bytes(*word)).collect(),
    }))
}

fn drain(body: &[u8]) -> Option<Order> {
    let ([reason, phase, receiver, policy], times) = body.split_first_chunk::<4>()?;
    let (since, deadline) = times.split_first_chunk::<8>()?;
    let drain = Drain {
        reason: Reason::from_u8(*reason)?,
        phase: match phase {
            2 => Phase::Lameduck,
            3 => Phase::Draining,
            4 => Phase::Closing,
            _ => return None,
        },
        since: Time::from_nanos(u64::from_le_bytes(*since)),
        deadline: Time::from_nanos(u64::from_le_bytes(deadline.try_into().ok()?)),
        receiver: match receiver {
            0 => false,
            1 => true,
            _ => return None,
        },
    };
    Some(Order::Drain { drain, policy: PolicyId::from_u8(*policy)? })
}

/// The length of the longest prefix of `text` that has at most `max` bytes and splits no character.
fn prefix(text: &str, max: usize) -> usize {
    (0..=max.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
