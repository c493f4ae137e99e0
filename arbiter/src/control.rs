//! The language of the control socket: requests of operators and answers, as lines of JSON.
//!
//! A request is one object on one line. `v` is [`VERSION`], `command` names the command, the other
//! members are its parameters. Unknown commands and members are refused. The answer is one or more
//! lines. The last line has `ok`: true, or false with `error`, a sentence. The next request may
//! follow an answer.
//!
//! ```text
//! {"v":1,"command":"status"}
//! {"v":1,"command":"scale","workers":"+1"}          "+N" "-N" "N"
//! {"v":1,"command":"recycle","pid":4711}            without pid: all
//! {"v":1,"command":"reload"}
//! {"v":1,"command":"drain"}
//! {"v":1,"command":"resume"}
//! {"v":1,"command":"upgrade"}
//! {"v":1,"command":"stop","quick":true}
//! {"v":1,"command":"log-level","level":"debug"}
//! ```
//!
//! `recycle`, `reload`, `drain`, `resume`, `upgrade` and `stop` are answered when they are done, or
//! with `"wait":false` once they have begun. [`server`] handles the sockets.

use remuda_core::order::Level;
use rustix::process::Pid;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::plan::words::{Command, Done, Refused, Scale};

pub(crate) mod server;

/// The version of the language.
pub(crate) const VERSION: u64 = 1;

/// The largest size of a request in bytes, without the end of its line.
pub(crate) const LINE_MAX: usize = 64 * 1024;

/// A request of an operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// Show the state of the server.
    Status,
    /// A command for the plan. `wait`: answer when it is done.
    Plan { command: Command, wait: bool },
    /// Set the level of the log.
    LogLevel(Level),
}

/// Why a line is not a request.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum Malformed {
    #[error("the request is longer than {LINE_MAX} bytes")]
    TooLong,
    #[error("the request has no end of line")]
    Unfinished,
    #[error("not a request: {0}")]
    Json(String),
    #[error("unsupported version {0}, expected {VERSION}")]
    Version(u64),
    #[error(
        "unknown command {0:?}; allowed: status, scale, recycle, drain, resume, stop, reload, upgrade, log-level"
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

/// Parses a line, without its end.
pub(crate) fn parse(line: &[u8]) -> Result<Request, Malformed> {
    let json = |error: serde_json::Error| Malformed::Json(error.to_string());
    // The version comes first: a request of another version may have members that are unknown here,
    // and the answer should name the version as the cause.
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
        "drain" | "resume" | "reload" | "upgrade" => &["wait"],
        "log-level" => &["level"],
        _ => return Err(Malformed::Command(command)),
    };
    // A member without effect is probably a mistake (`pid` with `stop`), so it is refused.
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
        "resume" => plan(Command::Resume),
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
        Ok(
            Done::Scaled { workers }
            | Done::Recycled { workers }
            | Done::Drained { workers }
            | Done::Resumed { workers },
        ) => json!({ "v": VERSION, "ok": true, "workers": workers }),
        Ok(Done::Reloaded { generation }) => json!({ "v": VERSION, "ok": true, "generation": generation }),
        Ok(Done::Upgraded { pid }) => json!({ "v": VERSION, "ok": true, "pid": pid.as_raw_nonzero() }),
        Ok(Done::Stopped { status, cut }) => {
            json!({ "v": VERSION, "ok": true, "status": status, "cut": cut })
        }
        Ok(Done::Begun) => done(),
        Err(refused) => refusal(&refused.to_string()),
    }
}

/// The last line of a successful answer without further members.
pub(crate) fn done() -> Value {
    json!({ "v": VERSION, "ok": true })
}

/// The line that refuses a request.
pub(crate) fn refusal(why: &str) -> Value {
    json!({ "v": VERSION, "ok": false, "error": why })
}

#[cfg(test)]
mod tests;
