//! The sub-commands, which operators use to query and command a running server through its control
//! socket.
//!
//! A sub-command sends one request, a line of JSON, and prints the answer: as text, or unchanged
//! with `--json`. The exit status is 0 if the command is done, 1 if it was refused or has failed, 2
//! if it is malformed or the settings file cannot be read, 3 if no server answers. For `stop` it is
//! the server's own status if the deadline has cut work off. `doctor` contacts no server; it
//! examines the settings and the machine.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use remuda_core::worker::Worker;
use serde_json::{Value, json};

use crate::settings::{self, CONTROL_SOCKET, DOCTOR, Inputs, LEVELS, Problem, control_socket, workers};

pub(crate) mod doctor;
mod table;

/// The version of the control socket's protocol.
const VERSION: u64 = 1;

/// How long a server may take to answer a request that it can answer at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Printed for a stop that was not clean.
const CUT: &str = "stopped; the deadline cut work off\n";

/// How often `top` requests the status.
const EVERY: Duration = Duration::from_secs(1);

/// Why a sub-command has failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Refused(String),
    #[error("unexpected answer from the server: {0}")]
    Broken(String),
    #[error(
        "no control socket is set: name it by --{CONTROL_SOCKET} PATH, by the variable \
         REMUDA_CONTROL_SOCKET, or as {CONTROL_SOCKET} in the settings file"
    )]
    Nowhere,
    #[error("{0}")]
    Settings(String),
    #[error("cannot connect to the control socket {}: {error}", path.display())]
    NoServer { path: PathBuf, error: io::Error },
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Broken(_) => 1,
            Self::Nowhere | Self::Settings(_) => 2,
            Self::NoServer { .. } => 3,
        }
    }
}

/// The command line of a program called `name`, sub-commands included (see [`settings::command`]).
pub(crate) fn command_line(
    name: String,
    version: String,
    takes_app: bool,
    backends: &[Arc<dyn Worker>],
) -> Command {
    settings::command(name, version, takes_app, backends).subcommands(commands())
}

/// The sub-commands, for the command line.
fn commands() -> impl Iterator<Item = Command> {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let json = || flag("json", "Print the answer as JSON, one object a line");
    let no_wait = || flag("no-wait", "Return at once instead of when it is done");
    let command = move |name: &'static str, about: &'static str| Command::new(name).about(about).arg(json());
    [
        command("status", "Show the state of the server and of each worker"),
        Command::new("top").about("Show status every second").arg(flag("once", "Show it once and exit")),
        command("reload", "Load settings and application anew").arg(no_wait()),
        command("scale", "Change the number of workers").arg(
            Arg::new("workers")
                .value_name("+N|-N|N")
                .required(true)
                .allow_hyphen_values(true)
                .value_parser(workers)
                .help("Workers to add (+N), to take away (-N), or to run (N)"),
        ),
        command("recycle", "Replace workers; each leaves once its replacement is ready")
            .arg(
                Arg::new("pid")
                    .value_name("PID")
                    .value_parser(clap::value_parser!(i32).range(1..))
                    .help("Worker to replace [default: all]"),
            )
            .arg(no_wait()),
        command("drain", "Drain all workers and keep listening; resume brings them back").arg(no_wait()),
        command("resume", "Start workers again after drain, as HUP does").arg(no_wait()),
        command("stop", "Stop the server, as TERM does")
            .arg(flag("quick", "Stop within 2 s, as INT does"))
            .arg(no_wait()),
        command("upgrade", "Replace the server by a new executable without losing connections, as USR2 does")
            .arg(no_wait()),
        command("log-level", "Change the level of the log").arg(
            Arg::new("level")
                .value_name("LEVEL")
                .required(true)
                .value_parser(LEVELS.iter().map(|level| level.name).collect::<Vec<_>>())
                .hide_possible_values(true)
                .help("error, warn, info, debug or trace"),
        ),
        Command::new(DOCTOR).about("Check the settings and this machine for problems in production"),
    ]
    .into_iter()
}

/// Carries out the sub-command in `arguments`, and returns the exit status. Returns `None` if the
/// arguments contain no sub-command or are invalid: the server's own start then reports that.
pub(crate) fn run(command: &Command, arguments: &[OsString]) -> Option<u8> {
    let line = command.clone().try_get_matches_from(arguments).ok()?;
    let (name, matches) = line.subcommand().filter(|(name, _)| *name != DOCTOR)?;
    let path = control_socket(command, &line, matches, Inputs::of_process(arguments.to_vec()));
    let asked = match path {
        Ok(Some(path)) => ask(name, matches, &path),
        Ok(None) => Err(Failure::Nowhere),
        Err(problems) => Err(Failure::Settings(sentences(&problems))),
    };
    Some(match asked {
        Ok(status) => status,
        Err(failure) => {
            // A closed standard error leaves no place for the message; the status remains.
            let _ = writeln!(io::stderr(), "{} {name}: {failure}", command.get_name());
            failure.status()
        }
    })
}

fn sentences(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

/// Sends the request for the sub-command `name`, prints the answer and returns the exit status.
fn ask(name: &str, matches: &ArgMatches, path: &Path) -> Result<u8, Failure> {
    let is_set = |flag: &str| matches.try_get_one(flag).ok().flatten() == Some(&true);
    if name == "top" {
        return top(path, is_set("once")).map(|()| 0);
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
    let answer = exchange(path, &request)?;
    let mut text = String::new();
    if is_set("json") {
        answer.iter().for_each(|line| text += &format!("{line}\n"));
    } else if name == "status" {
        text = table::status(&answer);
    } else if let Some(workers) = answer.last().and_then(|last| last["workers"].as_u64()) {
        text = format!("{}\n", table::workers(workers));
    } else if let Some(pid) = answer.last().and_then(|last| last["pid"].as_u64()) {
        text = format!("pid {pid}\n");
    }
    // A stop that cut work off is done, and not refused: it has words and a status of its own.
    let cut = answer.last().filter(|last| last["cut"] == true);
    if cut.is_some() && !is_set("json") {
        text = CUT.to_owned();
    }
    let refusal = answer.last().filter(|last| last["ok"] != true);
    // The reason of a refusal goes to standard error in any case; --json prints the answer, too.
    if refusal.is_none() || is_set("json") {
        print(&text);
    }
    let status = cut.and_then(|last| u8::try_from(last["status"].as_u64()?).ok()).unwrap_or_default();
    refusal.map_or(Ok(status), |last| Err(refused(last)))
}

/// Prints the status every second until it is interrupted or the server has gone.
fn top(path: &Path, once: bool) -> Result<(), Failure> {
    /// Moves the cursor to the top left and clears the screen (ECMA-48).
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

/// Sends a request and returns the lines of the answer. Commands that take time have no time limit.
fn exchange(path: &Path, request: &Value) -> Result<Vec<Value>, Failure> {
    let broken = |error: io::Error| Failure::Broken(error.to_string());
    let mut socket =
        UnixStream::connect(path).map_err(|error| Failure::NoServer { path: path.to_owned(), error })?;
    let waits = ["recycle", "reload", "drain", "resume", "upgrade", "stop"]
        .iter()
        .any(|name| request["command"] == *name);
    socket.set_read_timeout((!waits).then_some(PATIENCE)).map_err(broken)?;
    // The server may refuse the connection, and close it, before it has read the request. Its
    // reason is then still to be read.
    let sent = socket.write_all(format!("{request}\n").as_bytes());
    let mut answer: Vec<Value> = Vec::new();
    let mut is_answered = false;
    for line in BufReader::new(&socket).lines() {
        let line = match line {
            Err(_) if is_answered => break, // closed by the server with unread input
            line => line.map_err(broken)?,
        };
        let value: Value = serde_json::from_str(&line).map_err(|error| Failure::Broken(error.to_string()))?;
        is_answered = value.get("ok").is_some();
        answer.push(value);
        // A stop is over only when the server ends, which closes the socket: read on.
        if is_answered && (request["command"] != "stop" || request["wait"] == false) {
            break;
        }
    }
    if is_answered {
        return Ok(answer);
    }
    sent.map_err(broken)?;
    Err(Failure::Broken("connection closed before the answer".into()))
}

fn refused(last: &Value) -> Failure {
    Failure::Refused(last["error"].as_str().unwrap_or("no reason was given").to_owned())
}

/// Returns `false` if standard output is closed.
fn print(text: &str) -> bool {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests;
