//! The control socket: who may speak, and how much, and that nobody makes the arbiter wait.
//!
//! Everything is non-blocking. A client has [`PATIENCE`] to end a line that it has begun or to say anything at all, and to
//! take what it is sent; one answer is made at a time, so what waits to be sent is bounded by the longest of them.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use remuda_core::time::Time;
use remuda_core::worker::Listener;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use rustix::process::{geteuid, umask};
use serde_json::Value;
use tracing::warn;

use super::{LINE_MAX, Malformed, Request, parse, refusal};
use crate::listener::{Heirloom, Listeners};
use crate::plan::Ticket;
use crate::{Bind, BindError};

/// The socket, and who is connected to it.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    /// Removes the file that it has made, and no other, when it ends.
    listeners: Listeners,
    clients: Vec<Client>,
    /// Tickets given so far.
    tickets: u64,
}

/// One client, and at most one request of it that is not answered.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    peer: i32,
    /// Received and not read yet; a line at most, with what came behind it.
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// Its request waits for this answer.
    asked: Option<Ticket>,
    /// By when it has to have said or taken something, unless it waits for an answer.
    until: Time,
    /// Nothing more is read from it, and it goes once all is sent.
    is_last: bool,
}

/// Clients at most.
const CLIENTS: usize = 16;

/// How long a client may say and take nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that wait to be sent at most; a client that asks for more without taking them is dropped.
const OUTPUT_MAX: usize = 4 * 1024 * 1024;

impl ControlSocket {
    /// Listens at `path`, which nobody but this user may open. A file that a dead server left there is replaced.
    /// One of `heirlooms` that is there already is taken over.
    pub(crate) fn bind(path: &Path, heirlooms: &mut Vec<Heirloom>) -> Result<Self, BindError> {
        // The mode is given as the file is made: there is no moment in which others may open it.
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let listeners =
            Listeners::bind(&Bind::Unix(path.to_owned()), CLIENTS as u32, (None, None), heirlooms);
        umask(before);
        Ok(Self { listeners: listeners?, clients: Vec::new(), tickets: 0 })
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listeners = self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN));
        listeners.chain(self.clients.iter().map(Client::interest))
    }

    /// When somebody has been waited for long enough, or has more to say that has arrived already.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.clients.iter().filter_map(Client::deadline).min()
    }

    /// Takes in what has arrived, and sends what can be sent.
    pub(crate) fn advance(&mut self, now: Time) -> Vec<(Ticket, Request)> {
        self.accept(now);
        let mut requests = Vec::new();
        let tickets = &mut self.tickets;
        self.clients.retain_mut(|client| {
            let goes_on = client.advance(now, || {
                *tickets += 1;
                Ticket(*tickets)
            });
            match goes_on {
                Ok(request) => requests.extend(request),
                Err(Gone) => return false,
            }
            true
        });
        requests
    }

    /// Answers a request: `lines`, of which the last says how it went. Nobody is told who has left.
    pub(crate) fn answer(&mut self, ticket: Ticket, lines: impl IntoIterator<Item = Value>, now: Time) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.asked == Some(ticket)) {
            client.asked = None;
            client.say(lines, now);
            // What cannot be sent now is sent later, and who has left is found out then.
            let _ = client.send(now);
        }
    }

    /// What it listens on.
    pub(crate) fn listeners_mut(&mut self) -> &mut Listeners {
        &mut self.listeners
    }

    /// Leaves who connects from now on to the other arbiter, if that listens, too. Who is connected is answered still.
    pub(crate) fn give_way(&mut self) {
        if !self.listeners.shared().is_empty() {
            self.listeners.release();
        }
    }

    /// The end: nobody is listened to any more, and the file is gone.
    pub(crate) fn end(&mut self) {
        self.listeners.end();
        self.clients.clear();
    }

    fn accept(&mut self, now: Time) {
        let listeners: Vec<&Listener> = self.listeners.iter().collect();
        for listener in listeners {
            while let Ok(socket) = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                match admit(&socket, self.clients.len()) {
                    Ok(peer) => self.clients.push(Client::new(socket, peer, now)),
                    Err(why) => {
                        warn!("refused on the control socket: {why}");
                        // If it cannot be told at once it is not told.
                        let _ = send(&socket, &line(&refusal(&why)), SendFlags::NOSIGNAL);
                    }
                }
            }
        }
    }
}

/// Whether a peer may speak (unix(7), `SO_PEERCRED`): this user and root may. Gives its pid.
fn admit(socket: &OwnedFd, clients: usize) -> Result<i32, String> {
    let peer = sockopt::socket_peercred(socket).map_err(|errno| format!("the peer is unknown: {errno}"))?;
    let pid = peer.pid.as_raw_nonzero().get();
    if !peer.uid.is_root() && peer.uid != geteuid() {
        return Err(format!("user {} (pid {pid}) is neither root nor the server's user", peer.uid.as_raw()));
    }
    if clients >= CLIENTS {
        return Err(format!("there are {CLIENTS} clients already"));
    }
    Ok(pid)
}

/// A client has left, or was dropped.
struct Gone;

impl Client {
    fn new(socket: OwnedFd, peer: i32, now: Time) -> Self {
        let (input, output) = (Vec::new(), VecDeque::new());
        Self { socket, peer, input, output, asked: None, until: now + PATIENCE, is_last: false }
    }

    /// What it has sent while it waits for an answer stays in the kernel; that it leaves is seen all the same.
    fn interest(&self) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.is_free());
        flags.set(PollFlags::OUT, !self.output.is_empty());
        PollFd::new(&self.socket, flags)
    }

    fn deadline(&self) -> Option<Time> {
        let has_more = self.is_free() && self.input.contains(&b'\n');
        self.asked.is_none().then_some(if has_more { Time::ZERO } else { self.until })
    }

    /// Whether its next request may be read.
    fn is_free(&self) -> bool {
        self.asked.is_none() && self.output.is_empty() && !self.is_last
    }

    fn advance(
        &mut self,
        now: Time,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<Option<(Ticket, Request)>, Gone> {
        self.send(now)?;
        if !self.is_free() {
            // Nothing else would say so while it waits for its answer.
            return if self.has_left() { Err(Gone) } else { self.is_patient(now).map(|()| None) };
        }
        let ended = self.receive(now)?;
        let request = match self.next_line(ended) {
            Some(Ok(line)) => parse(&line),
            Some(Err(malformed)) => Err(malformed),
            None if ended => return Err(Gone),
            None => return self.is_patient(now).map(|()| None),
        };
        match request {
            Ok(request) => {
                let ticket = ticket();
                self.asked = Some(ticket);
                self.is_last |= ended;
                Ok(Some((ticket, request)))
            }
            Err(malformed) => {
                warn!(pid = self.peer, "refused on the control socket: {malformed}");
                self.is_last = true;
                self.say([refusal(&malformed.to_string())], now);
                self.send(now).map(|()| None)
            }
        }
    }

    /// Whether it has closed its socket, which is more than having nothing more to say.
    fn has_left(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_ok() && !fds[0].revents().is_empty()
    }

    fn is_patient(&self, now: Time) -> Result<(), Gone> {
        if self.asked.is_some() || now < self.until {
            return Ok(());
        }
        if !self.output.is_empty() {
            warn!(pid = self.peer, "dropped from the control socket: it does not take its answer");
        } else if !self.input.is_empty() {
            warn!(pid = self.peer, "refused on the control socket: {}", Malformed::Unfinished);
            let _ =
                send(&self.socket, &line(&refusal(&Malformed::Unfinished.to_string())), SendFlags::NOSIGNAL);
        }
        Err(Gone)
    }

    /// Reads until there is a whole line, nothing more, or too much; `true` at the end of input.
    fn receive(&mut self, now: Time) -> Result<bool, Gone> {
        let mut buffer = [0; 4096];
        while self.input.len() <= LINE_MAX && !self.input.contains(&b'\n') {
            match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Ok(true),
                Ok((n, _)) => {
                    self.input.extend_from_slice(&buffer[..n]);
                    self.until = now + PATIENCE;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Gone),
            }
        }
        Ok(false)
    }

    /// The next line, without its end.
    fn next_line(&mut self, ended: bool) -> Option<Result<Vec<u8>, Malformed>> {
        match self.input.iter().position(|byte| *byte == b'\n') {
            Some(end) if end <= LINE_MAX => {
                let mut line: Vec<u8> = self.input.drain(..=end).collect();
                line.pop();
                Some(Ok(line))
            }
            None if self.input.len() <= LINE_MAX => {
                (ended && !self.input.is_empty()).then_some(Err(Malformed::Unfinished))
            }
            _ => Some(Err(Malformed::TooLong)),
        }
    }

    fn say(&mut self, lines: impl IntoIterator<Item = Value>, now: Time) {
        lines.into_iter().for_each(|value| self.output.extend(line(&value)));
        self.until = now + PATIENCE;
        if self.output.len() > OUTPUT_MAX {
            warn!(pid = self.peer, "the answer is longer than {OUTPUT_MAX} bytes and not sent");
            self.output.clear();
            self.is_last = true;
        }
    }

    fn send(&mut self, now: Time) -> Result<(), Gone> {
        while !self.output.is_empty() {
            match send(&self.socket, self.output.as_slices().0, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    self.output.drain(..n);
                    self.until = now + PATIENCE;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Gone),
            }
        }
        if self.is_last && self.asked.is_none() { Err(Gone) } else { Ok(()) }
    }
}

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests;
