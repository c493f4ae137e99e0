//! The control socket's language: what operators write, and what they are answered. Lines of JSON.
//!
//! A request is one object on one line. `v` is [`VERSION`], `command` says what to do, the other members belong to the
//! command; what is not known is refused, never guessed at. The answer is one line or several, of which the last has `ok`:
//! true, or false with `error`, a sentence. After an answer the next request may follow.
//!
//! ```text
//! {"v":1,"command":"status"}
//! {"v":1,"command":"scale","workers":"+1"}          "+N" "-N" "N"
//! {"v":1,"command":"recycle","pid":4711}            without pid: all
//! {"v":1,"command":"reload"}
//! {"v":1,"command":"drain"}
//! {"v":1,"command":"upgrade"}
//! {"v":1,"command":"stop","quick":true}
//! {"v":1,"command":"log-level","level":"debug"}
//! ```
//!
//! `recycle`, `reload`, `drain`, `upgrade` and `stop` are answered when they are done, or with `"wait":false` once they are begun. The sockets are
//! [`server`]'s.

use remuda_core::order::Level;
use rustix::process::Pid;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::plan::{Command, Done, Refused, Scale};

pub(crate) mod server;

/// The version of the language.
pub(crate) const VERSION: u64 = 1;

/// Bytes of a request at most, without the end of its line.
pub(crate) const LINE_MAX: usize = 64 * 1024;

/// What an operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// How the server is.
    Status,
    /// Something that the plan decides about; `wait` for it to be done.
    Plan { command: Command, wait: bool },
    /// What is logged from now on.
    LogLevel(Level),
}

/// Why a line is no request.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum Malformed {
    #[error("a request is longer than {LINE_MAX} bytes")]
    TooLong,
    #[error("the request has no end of line")]
    Unfinished,
    #[error("not a request: {0}")]
    Json(String),
    #[error("version {0} is not spoken here, but {VERSION}")]
    Version(u64),
    #[error(
        "unknown command {0:?}; there are status, scale, recycle, drain, stop, reload, upgrade, log-level"
    )]
    Command(String),
    #[error("{command} takes no {member}")]
    Superfluous { command: String, member: &'static str },
    #[error("{0}")]
    Value(&'static str),
}

#[derive(Deserialize)]
struct Versioned {
    v: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "v")]
    _version: u64,
    command: String,
    workers: Option<String>,
    pid: Option<i32>,
    quick: Option<bool>,
    level: Option<String>,
    wait: Option<bool>,
}

/// Reads a line, without its end.
pub(crate) fn parse(line: &[u8]) -> Result<Request, Malformed> {
    let json = |error: serde_json::Error| Malformed::Json(error.to_string());
    let Versioned { v } = serde_json::from_slice(line).map_err(json)?;
    if v != VERSION {
        return Err(Malformed::Version(v));
    }
    let Line { command, workers, pid, quick, level, wait, .. } =
        serde_json::from_slice(line).map_err(json)?;
    let given = [
        ("workers", workers.is_some()),
        ("pid", pid.is_some()),
        ("quick", quick.is_some()),
        ("level", level.is_some()),
        ("wait", wait.is_some()),
    ];
    let taken: &[&str] = match command.as_str() {
        "status" => &[],
        "scale" => &["workers"],
        "recycle" => &["pid", "wait"],
        "stop" => &["quick", "wait"],
        "drain" | "reload" | "upgrade" => &["wait"],
        "log-level" => &["level"],
        _ => return Err(Malformed::Command(command)),
    };
    if let Some((member, _)) = given.into_iter().find(|(member, given)| *given && !taken.contains(member)) {
        return Err(Malformed::Superfluous { command, member });
    }
    let plan = |command| Request::Plan { command, wait: wait.unwrap_or(true) };
    Ok(match command.as_str() {
        "scale" => plan(Command::Scale(scale(&workers.unwrap_or_default())?)),
        "recycle" => {
            let read =
                |pid| Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(Malformed::Value(PIDS));
            let pid = pid.map(read);
            plan(Command::Recycle(pid.transpose()?))
        }
        "stop" => plan(Command::Stop { quick: quick.unwrap_or(false) }),
        "log-level" => {
            Request::LogLevel(level.unwrap_or_default().parse().map_err(|_| Malformed::Value(LEVELS))?)
        }
        "drain" => plan(Command::Drain),
        "reload" => plan(Command::Reload),
        "upgrade" => plan(Command::Upgrade),
        _ => Request::Status,
    })
}

const WORKERS: &str = "scale takes \"workers\" as \"+N\", \"-N\" or \"N\", with N from 1 to 1024";
const PIDS: &str = "recycle takes \"pid\" as a number above 0";
const LEVELS: &str = "log-level takes \"level\" as error, warn, info, debug or trace";

fn scale(text: &str) -> Result<Scale, Malformed> {
    let (sign, digits) = match text.as_bytes() {
        [sign @ (b'+' | b'-'), digits @ ..] => (Some(*sign), digits),
        digits => (None, digits),
    };
    let digits = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number: Option<u16> = digits.and_then(|digits| digits.parse().ok());
    let number = number.filter(|number| (1..=1024).contains(number)).ok_or(Malformed::Value(WORKERS))?;
    Ok(match sign {
        Some(b'-') => Scale::By(-(number as i16)),
        Some(_) => Scale::By(number as i16),
        None => Scale::To(number),
    })
}

/// The last line of an answer.
pub(crate) fn answer(answer: Result<Done, Refused>) -> Value {
    match answer {
        Ok(Done::Scaled { workers } | Done::Recycled { workers } | Done::Drained { workers }) => {
            json!({ "v": VERSION, "ok": true, "workers": workers })
        }
        Ok(Done::Reloaded { generation }) => json!({ "v": VERSION, "ok": true, "generation": generation }),
        Ok(Done::Upgraded { pid }) => json!({ "v": VERSION, "ok": true, "pid": pid.as_raw_nonzero() }),
        Ok(Done::Begun | Done::Stopped) => done(),
        Err(refused) => refusal(&refused.to_string()),
    }
}

/// The last line of an answer that has nothing else to say.
pub(crate) fn done() -> Value {
    json!({ "v": VERSION, "ok": true })
}

/// The only line of an answer to what is not done.
pub(crate) fn refusal(why: &str) -> Value {
    json!({ "v": VERSION, "ok": false, "error": why })
}

#[cfg(test)]
mod tests;
