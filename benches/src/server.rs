//! A server under measurement: started beside this program, ended by its process id.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;

/// A server to compare.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
}

impl Kind {
    /// `ADDRESS` among the arguments stands for the address to listen on.
    pub(crate) const fn new(
        name: &'static str,
        program: &'static str,
        arguments: &'static [&'static str],
    ) -> Self {
        Self { name, program, arguments }
    }
}

pub(crate) struct Server {
    process: Child,
    address: SocketAddr,
    worker: u32,
}

/// How long a start or a stop may take. Under valgrind both are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often to poll a process that does not announce that it is ready.
const GLANCE: Duration = Duration::from_millis(10);

impl Server {
    pub(crate) fn start(kind: &Kind) -> io::Result<Self> {
        Self::start_under(&[], kind)
    }

    /// Starts a server as an argument of another program, and returns once it has answered.
    pub(crate) fn start_under(prefix: &[OsString], kind: &Kind) -> io::Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let given =
            |argument: &&str| if *argument == "ADDRESS" { address.to_string() } else { argument.to_string() };
        let program = env::current_exe()?.with_file_name(kind.program).into_os_string();
        let mut words = prefix
            .iter()
            .cloned()
            .chain([program])
            .chain(kind.arguments.iter().map(given).map(OsString::from));
        let process = Command::new(words.next().unwrap_or_default())
            .args(words)
            // Valgrind has no processes that share descriptors, as a keeper and its worker do.
            .envs((!prefix.is_empty()).then_some(("REMUDA_RESCUE", "false")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut server = Self { worker: process.id(), process, address };
        let limit = Instant::now() + PATIENCE;
        while let Err(error) = Client::connect(address, 1) {
            if let Some(status) = server.process.try_wait()? {
                return Err(io::Error::other(format!("{} did not start: {status}", kind.program)));
            }
            if Instant::now() > limit {
                return Err(error);
            }
            thread::sleep(GLANCE);
        }
        server.worker = first_child(server.worker)?.unwrap_or(server.worker);
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process that answers: the first child of a server that has children, else the server
    /// itself.
    pub(crate) fn worker(&self) -> u32 {
        self.worker
    }

    /// Asks the server to stop and waits until it has.
    pub(crate) fn stop(mut self) -> io::Result<ExitStatus> {
        end(&mut self.process, Signal::TERM)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = end(&mut self.process, Signal::TERM);
    }
}

/// Sends a child a signal and waits for its end. Kills it after a while.
pub(crate) fn end(child: &mut Child, signal: Signal) -> io::Result<ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    kill_process(Pid::from_child(child), signal)?;
    let limit = Instant::now() + PATIENCE;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(status),
            None if Instant::now() > limit => {
                child.kill()?;
                return child.wait();
            }
            None => thread::sleep(GLANCE),
        }
    }
}

/// proc_pid_task(5), for the main thread, which is the one that forks.
fn first_child(pid: u32) -> io::Result<Option<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_whitespace().next().and_then(|pid| pid.parse().ok()))
}
