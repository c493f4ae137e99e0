//! Prints the cost of a request for each server: `compare [NAME...]`, all servers by default.
//!
//! It starts the `bench-*` programs beside itself and sends each the same request, with a short
//! response. Latency and requests per second are not measured: on one machine they depend on the
//! client more than on the server.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::{env, fmt};

use self::client::Client;
use self::server::{Kind, Server};

mod client;
mod measure;
mod server;

/// All servers to compare. None of them closes a connection that is idle during the turns of the
/// others. The CPU time of the others is divided by that of the first.
const KINDS: [Kind; 10] = [
    Kind::new("hyper", "bench-hyper", &["ADDRESS"]),
    Kind::new("hyper-timer", "bench-hyper", &["ADDRESS", "timer"]),
    Kind::new("hello-tokio", "bench-hello", &["-k", "tokio", "-b", "ADDRESS", "--keep-alive", "600"]),
    Kind::new("hello-mio", "bench-hello", &["-k", "mio", "-b", "ADDRESS", "--keep-alive", "600"]),
    Kind::new("hello-smol", "bench-hello", &["-k", "smol", "-b", "ADDRESS", "--keep-alive", "600"]),
    Kind::new("axum-hyper", "bench-axum-hyper", &["ADDRESS"]),
    Kind::new("axum-tokio", "bench-axum", &["-k", "tokio", "-b", "ADDRESS", "--keep-alive", "600"]),
    Kind::new("axum-mio", "bench-axum", &["-k", "mio", "-b", "ADDRESS", "--keep-alive", "600"]),
    Kind::new("demo-tokio", "bench-demo", &["-k", "tokio", "-b", "ADDRESS", "--keep-alive", "600"]),
    Kind::new("demo-mio", "bench-demo", &["-k", "mio", "-b", "ADDRESS", "--keep-alive", "600"]),
];

/// Connections in the measurements of CPU time and of system calls.
const CONNECTIONS: usize = 32;

/// Rounds of the measurement of CPU time. In each, every server has a turn.
const ROUNDS: usize = 15;

/// Requests in a turn.
const TURN: usize = 16_000;

/// Requests during which system calls are counted.
const TRACED: usize = 16_000;

fn main() -> io::Result<()> {
    let names: Vec<_> = env::args().skip(1).collect();
    if let Some(name) = names.iter().find(|name| KINDS.iter().all(|kind| kind.name != **name)) {
        let known = KINDS.map(|kind| kind.name).join(" ");
        return Err(io::Error::other(format!("no server is called {name:?}; allowed: {known}")));
    }
    let chosen = |kind: &&Kind| names.is_empty() || names.iter().any(|name| kind.name == name);
    let kinds: Vec<_> = KINDS.iter().filter(chosen).collect();

    say("user instructions a request, one connection (callgrind)")?;
    for kind in &kinds {
        row(kind, measure::instructions(kind).map(|n| format!("{n:9.0}")))?;
    }
    say(format_args!(
        "\nCPU time a request in µs, {CONNECTIONS} connections, {ROUNDS} rounds, median (least to most)"
    ))?;
    let (running, failed): (Vec<_>, Vec<_>) =
        kinds.iter().map(|kind| (kind, Server::start(kind))).partition(|(_, server)| server.is_ok());
    for (kind, server) in failed {
        row(kind, server.map(|_| String::new()))?;
    }
    let running: Vec<_> =
        running.into_iter().filter_map(|(kind, server)| Some((kind, server.ok()?))).collect();
    let rounds = cpu_rounds(&running)?;
    for (i, (kind, _)) in running.iter().enumerate() {
        let micros = Spread::of(rounds.iter().map(|round| round[i]));
        let ratio = Spread::of(rounds.iter().map(|round| round[i] / round[0]));
        row(kind, Ok(format!("{micros}   of {}: {ratio}", running[0].0.name)))?;
    }
    say(format_args!(
        "\nsystem calls a request, {CONNECTIONS} connections (strace, which slows and so gathers them)"
    ))?;
    for (kind, server) in &running {
        row(kind, measure::system_calls(server, CONNECTIONS, TRACED))?;
    }
    running.into_iter().try_for_each(|(_, server)| server.stop().map(drop))
}

/// Microseconds a request, by round and server.
fn cpu_rounds(running: &[(&&Kind, Server)]) -> io::Result<Vec<Vec<f64>>> {
    let mut clients = running
        .iter()
        .map(|(_, server)| Client::connect(server.address(), CONNECTIONS))
        .collect::<io::Result<Vec<_>>>()?;
    let mut round = || {
        let turns = running.iter().zip(&mut clients);
        turns.map(|((_, server), client)| measure::cpu_micros(server, client, TURN)).collect()
    };
    // The first round, which warms caches and branch predictors, does not count.
    let _: io::Result<Vec<_>> = round();
    (0..ROUNDS).map(|_| round()).collect()
}

/// The median of some numbers, and their range.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut numbers: Vec<_> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        let at = |i: usize| numbers.get(i).copied().unwrap_or(f64::NAN);
        Self { least: at(0), median: at(numbers.len() / 2), most: at(numbers.len().saturating_sub(1)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.2} ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}

fn say(line: impl fmt::Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// A server that this build does not have, or a missing tool, costs only its own row.
fn row(kind: &Kind, result: io::Result<String>) -> io::Result<()> {
    say(format_args!(
        "  {:<12} {}",
        kind.name,
        result.unwrap_or_else(|error| format!("not measured: {error}"))
    ))
}

#[cfg(test)]
mod tests;
