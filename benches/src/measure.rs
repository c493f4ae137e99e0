//! The cost of a request in three units.

use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::{env, fs, process};

use rustix::process::Signal;

use crate::client::Client;
use crate::server::{Kind, Server, end};

/// Requests in the two runs whose difference is the result.
const FEW: usize = 2_000;
const MANY: usize = 12_000;

/// Instructions a request in user space, as the difference of two runs: start, accept and stop
/// cancel out.
pub(crate) fn instructions(kind: &Kind) -> io::Result<f64> {
    let (few, many) = (counted(kind, FEW)?, counted(kind, MANY)?);
    Ok((many - few) / (MANY - FEW) as f64)
}

/// Instructions that a worker has executed by its end, after `n` requests on one connection.
fn counted(kind: &Kind, n: usize) -> io::Result<f64> {
    let scratch = env::temp_dir().join(format!("compare-{}", process::id()));
    fs::create_dir_all(&scratch)?;
    let out = format!("--callgrind-out-file={}/%p", scratch.display());
    let valgrind = ["valgrind", "--tool=callgrind", &out].map(Into::into);
    let server = Server::start_under(&valgrind, kind)?;
    let worker = server.worker().to_string();
    Client::connect(server.address(), 1)?.ask(n)?;
    server.stop()?;
    let profile = fs::read_to_string(scratch.join(worker))?;
    fs::remove_dir_all(scratch)?;
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    total.and_then(|n| n.parse().ok()).ok_or_else(|| io::Error::other("callgrind has counted nothing"))
}

/// CPU time of all threads of the worker in microseconds a request, user and system together.
pub(crate) fn cpu_micros(server: &Server, client: &mut Client, requests: usize) -> io::Result<f64> {
    let before = cpu_nanos(server.worker())?;
    client.ask(requests)?;
    Ok((cpu_nanos(server.worker())? - before) / requests as f64 / 1000.0)
}

/// The same time as utime and stime of proc_pid_stat(5), which rounds to clock ticks.
fn cpu_nanos(pid: u32) -> io::Result<f64> {
    let mut sum = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
        let running = schedstat.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
        sum += running.ok_or_else(|| io::Error::other("schedstat has no times"))?;
    }
    Ok(sum)
}

/// System calls a request, in all and by name. Connections are open before the count begins.
pub(crate) fn system_calls(server: &Server, connections: usize, requests: usize) -> io::Result<String> {
    let mut client = Client::connect(server.address(), connections)?;
    let out = env::temp_dir().join(format!("compare-{}", process::id()));
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-p", &server.worker().to_string(), "-o"])
        .arg(&out)
        .stderr(Stdio::piped())
        .spawn()?;
    // strace writes a line once it has attached itself to all threads.
    let mut said = String::new();
    let asked = BufReader::new(strace.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?)
        .read_line(&mut said)
        .and_then(|_| client.ask(requests));
    end(&mut strace, Signal::INT)?;
    asked?;
    let table = fs::read_to_string(&out)?;
    fs::remove_file(out)?;
    let mut calls: Vec<_> = table.lines().filter_map(name_and_calls).collect();
    calls.sort_by(|a, b| b.1.total_cmp(&a.1));
    let each = |(name, n): &(&str, f64)| format!("{name} {:.3}", n / requests as f64);
    match calls.as_slice() {
        [] => Err(io::Error::other(format!("strace has counted nothing and said {said:?}"))),
        calls => Ok(calls.iter().take(6).map(each).collect::<Vec<_>>().join("  ")),
    }
}

/// A line of strace's table: share, seconds, microseconds a call, calls, errors or nothing, name.
pub(crate) fn name_and_calls(line: &str) -> Option<(&str, f64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    Some((*words.last()?, words.get(3)?.parse().ok()?))
}
