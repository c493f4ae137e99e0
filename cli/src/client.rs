//! The sub-commands: what operators ask of a server that runs, through its control socket.
//!
//! A sub-command is one request, a line of JSON, and its answer: for people as text, with `--json` as it came. The exit
//! status is 0 if it is done, 1 if it was refused or has failed, 2 if it is not written as it should be, 3 if there is no
//! server to ask. `doctor` asks nobody and looks at the settings and at the machine.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use crate::settings::{CONTROL_SOCKET, find};

pub(crate) mod doctor;
mod table;

/// The sub-command that talks to no server.
pub(crate) const DOCTOR: &str = "doctor";

/// The version of the language that is spoken on the control socket.
const VERSION: u64 = 1;

/// How long a server may take to answer what takes no time.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often `top` asks.
const EVERY: Duration = Duration::from_secs(1);

/// Why a sub-command has failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Refused(String),
    #[error("the server did not answer as it should: {0}")]
    Broken(String),
    #[error(
        "no server to ask: name its control socket by --{CONTROL_SOCKET} PATH or by the variable \
         REMUDA_CONTROL_SOCKET"
    )]
    Nowhere,
    #[error("cannot connect to the control socket {}: {error}", path.display())]
    NoServer { path: PathBuf, error: io::Error },
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Broken(_) => 1,
            Self::Nowhere => 2,
            Self::NoServer { .. } => 3,
        }
    }
}

/// The sub-commands, for the command line.
pub(crate) fn commands() -> impl Iterator<Item = Command> {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let json = || flag("json", "Print the answer as it came: a line of JSON, or several");
    let no_wait = || flag("no-wait", "Do not wait until it is done");
    let command = move |name: &'static str, about: &'static str| Command::new(name).about(about).arg(json());
    [
        command("status", "Say how the server is, and each of its workers"),
        Command::new("top").about("Say so every second").arg(flag("once", "Say so once, and end")),
        command("reload", "Load settings and application anew").arg(no_wait()),
        command("scale", "Run more workers, or fewer").arg(
            Arg::new("workers")
                .value_name("+N|-N|N")
                .required(true)
                .allow_hyphen_values(true)
                .help("How many more, how many less, or how many"),
        ),
        command("recycle", "Replace workers, each by one that is ready before it leaves")
            .arg(
                Arg::new("pid")
                    .value_name("PID")
                    .value_parser(clap::value_parser!(i32).range(1..))
                    .help("The worker to replace [default: all of them]"),
            )
            .arg(no_wait()),
        command("drain", "Drain all workers, and keep listening; HUP brings them back").arg(no_wait()),
        command("stop", "Stop the server, as TERM does")
            .arg(flag("quick", "Within 2 s, as INT does"))
            .arg(no_wait()),
        command("upgrade", "Have a new executable take over, as USR2 does").arg(no_wait()),
        command("log-level", "Change what is logged").arg(
            Arg::new("level").value_name("LEVEL").required(true).help("error, warn, info, debug or trace"),
        ),
        Command::new(DOCTOR).about("Look for what will hurt in production, with the settings given"),
    ]
    .into_iter()
}

/// Carries out the sub-command that `arguments` have, and gives the exit status; none if they have none, or are not right.
pub(crate) fn run(command: &Command, arguments: &[OsString]) -> Option<u8> {
    let matches = command.clone().try_get_matches_from(arguments).ok()?;
    let (name, matches) = matches.subcommand().filter(|(name, _)| *name != DOCTOR)?;
    Some(match ask(name, matches) {
        Ok(()) => 0,
        Err(failure) => {
            // Where nobody reads, nothing is left to say it to.
            let _ = writeln!(io::stderr(), "{} {name}: {failure}", command.get_name());
            failure.status()
        }
    })
}

fn ask(name: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let path = socket(matches).ok_or(Failure::Nowhere)?;
    let is_set = |flag: &str| matches.try_get_one(flag).ok().flatten() == Some(&true);
    if name == "top" {
        return top(&path, is_set("once"));
    }
    let mut request = json!({ "v": VERSION, "command": name });
    for text in ["workers", "level"] {
        if let Ok(Some(value)) = matches.try_get_one::<String>(text) {
            request[text] = json!(value);
        }
    }
    if let Ok(Some(pid)) = matches.try_get_one::<i32>("pid") {
        request["pid"] = json!(pid);
    }
    if is_set("quick") {
        request["quick"] = json!(true);
    }
    if is_set("no-wait") {
        request["wait"] = json!(false);
    }
    let answer = exchange(&path, &request)?;
    let mut text = String::new();
    if is_set("json") {
        answer.iter().for_each(|line| text += &format!("{line}\n"));
    } else if name == "status" {
        text = table::status(&answer);
    } else if let Some(workers) = answer.last().and_then(|last| last["workers"].as_u64()) {
        let plural = if workers == 1 { "" } else { "s" };
        text = format!("{workers} worker{plural}\n");
    } else if let Some(pid) = answer.last().and_then(|last| last["pid"].as_u64()) {
        text = format!("pid {pid}\n");
    }
    let refusal = answer.last().filter(|last| last["ok"] != true);
    if refusal.is_none() || is_set("json") {
        print(&text);
    }
    refusal.map_or(Ok(()), |last| Err(refused(last)))
}

/// The path that the command line or the environment name.
fn socket(matches: &ArgMatches) -> Option<PathBuf> {
    let variable = || env::var_os(find(CONTROL_SOCKET)?.variable());
    let flag = matches.try_get_one::<String>(CONTROL_SOCKET).ok().flatten();
    flag.map(OsString::from).or_else(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Until it is interrupted, or the server has gone.
fn top(path: &Path, once: bool) -> Result<(), Failure> {
    /// Cursor to the first place, and everything cleared (ECMA-48).
    const CLEAR: &str = "\x1b[H\x1b[2J";
    let request = json!({ "v": VERSION, "command": "status" });
    loop {
        let answer = exchange(path, &request)?;
        if let Some(last) = answer.last().filter(|last| last["ok"] != true) {
            return Err(refused(last));
        }
        let clear = if io::stdout().is_terminal() && !once { CLEAR } else { "" };
        if !print(&format!("{clear}{}", table::status(&answer))) || once {
            return Ok(());
        }
        thread::sleep(EVERY);
    }
}

/// Sends a request and gives the lines of the answer. What takes its time is waited for.
fn exchange(path: &Path, request: &Value) -> Result<Vec<Value>, Failure> {
    let broken = |error: io::Error| Failure::Broken(error.to_string());
    let mut socket =
        UnixStream::connect(path).map_err(|error| Failure::NoServer { path: path.to_owned(), error })?;
    let waits =
        ["recycle", "reload", "drain", "upgrade", "stop"].iter().any(|name| request["command"] == *name);
    socket.set_read_timeout((!waits).then_some(PATIENCE)).map_err(broken)?;
    // Who is refused at once may be told before it has asked.
    let sent = socket.write_all(format!("{request}\n").as_bytes());
    let mut answer: Vec<Value> = Vec::new();
    let mut is_answered = false;
    for line in BufReader::new(&socket).lines() {
        let line = match line {
            Err(_) if is_answered => break, // it has closed the connection without reading on
            line => line.map_err(broken)?,
        };
        let value: Value = serde_json::from_str(&line).map_err(|error| Failure::Broken(error.to_string()))?;
        is_answered = value.get("ok").is_some();
        answer.push(value);
        // Who waits for the end of a server has it when that closes the socket.
        if is_answered && (request["command"] != "stop" || request["wait"] == false) {
            break;
        }
    }
    if is_answered {
        return Ok(answer);
    }
    sent.map_err(broken)?;
    Err(Failure::Broken("it has closed the connection".into()))
}

fn refused(last: &Value) -> Failure {
    Failure::Refused(last["error"].as_str().unwrap_or("no reason was given").to_owned())
}

/// `false` where nobody reads any more.
fn print(text: &str) -> bool {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests;
