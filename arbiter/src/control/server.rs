//! The server of the control socket: access control and bounds. No client can delay the arbiter.
//!
//! All sockets are non-blocking. A client has [`PATIENCE`] to begin a line, to complete it, and to
//! read its answer. A client has one answer at a time, so the bytes that wait to be sent are
//! bounded by the longest answer. If [`CLIENTS`] are connected, a further client displaces the one
//! that most likely needs its connection least.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use remuda_core::time::Time;
use remuda_core::worker::{Bound, Listener};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use rustix::process::{geteuid, umask};
use serde_json::Value;
use tracing::{info, warn};

use super::{LINE_MAX, Malformed, Request, parse, refusal};
use crate::config::Bind;
use crate::listener::{BindError, InheritedListener, Listeners};
use crate::plan::words::Ticket;
use crate::sys::{self, Peer};

/// The control socket and its clients.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    /// Removes its own file at the end, and no other.
    listeners: Listeners,
    clients: Vec<Client>,
    /// The number of tickets issued.
    tickets: u64,
    /// No connection is accepted before this time, because descriptors or memory ran out.
    paused_until: Option<Time>,
    /// Whether the shortage was logged since the last accepted client.
    is_shortage_logged: bool,
}

/// A client, with at most one unanswered request.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    peer: i32,
    /// Bytes received and not parsed: at most a line, and bytes that arrived with its end.
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// The ticket of its unanswered request.
    asked: Option<Ticket>,
    /// Deadline for beginning a line, for completing it, or for reading some of the answer.
    /// Meaningless while the request is unanswered.
    until: Time,
    /// Nothing more is read, and the connection ends once all is sent.
    is_last: bool,
}

/// The largest number of clients.
const CLIENTS: usize = 16;

/// How long a client may be silent, may take for one line, and may not read its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause of accepting after descriptors or memory ran out. The socket stays readable, so that
/// waiting for it would return at once.
const PAUSE: Duration = Duration::from_millis(100);

/// The largest number of bytes that wait to be sent to a client. A client with a longer answer is
/// dropped.
const OUTPUT_MAX: usize = 4 * 1024 * 1024;

impl ControlSocket {
    /// Listens at `path`, with a mode for this user only. The file of a dead server is replaced. A
    /// matching listener in `inherited` is used instead.
    pub(crate) fn bind(path: &Path, inherited: &mut Vec<InheritedListener>) -> Result<Self, BindError> {
        Ok(Self {
            listeners: listen(path, Some(inherited))?,
            clients: Vec::new(),
            tickets: 0,
            paused_until: None,
            is_shortage_logged: false,
        })
    }

    /// Listens again if the file was lost. Connections stay.
    pub(crate) fn renew(&mut self) -> Result<(), BindError> {
        let lost = self.listeners.lost(None).find_map(|(bound, lost)| match bound {
            Bound::Unix(path) => Some((path.clone(), lost)),
            Bound::Inet(_) => None,
        });
        let Some((path, lost)) = lost else { return Ok(()) };
        let new = listen(&path, None)?;
        info!("control socket {}: {lost}; bound again", path.display());
        mem::replace(&mut self.listeners, new).end();
        Ok(())
    }

    /// The descriptors to wait for.
    pub(crate) fn interest(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listeners = self.listeners.iter().filter(|_| self.paused_until.is_none());
        let listeners = listeners.map(|listener| PollFd::new(listener, PollFlags::IN));
        listeners.chain(self.clients.iter().map(Client::interest))
    }

    /// The earliest deadline of a client, the end of a pause, or now if a further request has
    /// already arrived.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.clients.iter().filter_map(Client::deadline).chain(self.paused_until).min()
    }

    /// Reads requests, sends answers and accepts clients. Returns the requests, with tickets for
    /// [`answer`](Self::answer).
    pub(crate) fn advance(&mut self, now: Time) -> Vec<(Ticket, Request)> {
        let mut requests = Vec::new();
        let tickets = &mut self.tickets;
        let mut goes_on = |client: &mut Client| match client.advance(now, tickets) {
            Ok(request) => {
                requests.extend(request);
                true
            }
            Err(Gone) => false,
        };
        self.clients.retain_mut(&mut goes_on);
        if self.paused_until.is_some_and(|until| now < until) {
            return requests;
        }
        self.paused_until = None;
        // Connected clients are served between batches of this size.
        for _ in 0..CLIENTS {
            let mut shortage = None;
            let accepted = self.listeners.iter().map(accept);
            let accepted: Vec<_> = accepted
                .filter_map(|socket| {
                    socket.unwrap_or_else(|errno| {
                        shortage = Some(errno);
                        None
                    })
                })
                .collect();
            if let Some(errno) = shortage {
                self.paused_until = Some(now + PAUSE);
                if !self.is_shortage_logged {
                    warn!(
                        "cannot accept on the control socket: {errno}; next tries every {} ms",
                        PAUSE.as_millis()
                    );
                    self.is_shortage_logged = true;
                }
            }
            if accepted.is_empty() {
                break;
            }
            self.is_shortage_logged &= shortage.is_some();
            for socket in accepted {
                let mut client = match admit(&socket) {
                    Ok(peer) => Client::new(socket, peer, now),
                    Err(why) => {
                        warn!("control client refused: {why}");
                        // A message that cannot be sent at once is not sent.
                        let _ = send(&socket, &line(&refusal(&why)), SendFlags::NOSIGNAL);
                        continue;
                    }
                };
                // The request has often arrived with the connection.
                if goes_on(&mut client) {
                    if self.clients.len() == CLIENTS {
                        make_way(&mut self.clients);
                    }
                    self.clients.push(client);
                }
            }
        }
        requests
    }

    /// Answers a request by `lines`; the last one has the result. Does nothing if the client has
    /// left.
    pub(crate) fn answer(&mut self, ticket: Ticket, lines: impl IntoIterator<Item = Value>, now: Time) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.asked == Some(ticket)) {
            client.asked = None;
            client.say(lines, now);
            // The rest is sent later. A client that has left is removed by `advance`.
            let _ = client.send(now);
        }
    }

    /// The listeners.
    pub(crate) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// The listeners, to share or end them.
    pub(crate) fn listeners_mut(&mut self) -> &mut Listeners {
        &mut self.listeners
    }

    /// Leaves new clients to the other arbiter, if it shares the socket. Connected clients are
    /// still answered.
    pub(crate) fn give_way(&mut self) {
        if !self.listeners.shared().is_empty() {
            self.listeners.release();
        }
    }

    /// Ends the socket and all connections, and removes the file.
    pub(crate) fn end(&mut self) {
        self.listeners.end();
        self.clients.clear();
    }
}

/// Accepts a client, if one waits.
///
/// # Errors
///
/// Descriptors or memory ran out; the client keeps waiting.
fn accept(listener: &Listener) -> Result<Option<OwnedFd>, Errno> {
    match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(socket) => Ok(Some(socket)),
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => Err(errno),
        Err(_) => Ok(None),
    }
}

/// Drops one client: the oldest without a request, else the oldest that does not read its answer,
/// else the oldest that waits for an answer. The command of a dropped client continues.
fn make_way(clients: &mut Vec<Client>) {
    let need = |client: &Client| match client.asked {
        Some(_) => 2,
        None => u8::from(!client.output.is_empty()),
    };
    let Some((at, _)) = clients.iter().enumerate().min_by_key(|(_, client)| need(client)) else { return };
    let client = clients.remove(at);
    let why = format!("limit of {CLIENTS} clients, and another one has connected");
    warn!(pid = client.peer, "control client dropped: {why}");
    // A message that cannot be sent at once is not sent, nor is one behind half an answer.
    if client.output.is_empty() {
        let _ = send(&client.socket, &line(&refusal(&why)), SendFlags::NOSIGNAL);
    }
}

/// The umask gives the mode when the file is created, so that other users can never open it.
/// `inherited`: as for [`Listeners::bind`].
fn listen(path: &Path, inherited: Option<&mut Vec<InheritedListener>>) -> Result<Listeners, BindError> {
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let listeners = Listeners::bind(&Bind::Unix(path.to_owned()), CLIENTS as u32, (None, None), inherited);
    umask(before);
    listeners
}

/// Checks the peer's user (unix(7), `SO_PEERCRED`): this user and root are admitted. Returns the
/// peer's pid, which is 0 if the peer is in a pid namespace that this process cannot see.
fn admit(socket: &OwnedFd) -> Result<i32, String> {
    let Peer { pid, uid } =
        sys::peer(socket).map_err(|error| format!("cannot look up the peer's user: {error}"))?;
    if !uid.is_root() && uid != geteuid() {
        return Err(format!("user {} (pid {pid}) is neither root nor the server's user", uid.as_raw()));
    }
    Ok(pid)
}

/// The client has left or was dropped.
struct Gone;

impl Client {
    fn new(socket: OwnedFd, peer: i32, now: Time) -> Self {
        let (input, output) = (Vec::new(), VecDeque::new());
        Self { socket, peer, input, output, asked: None, until: now + PATIENCE, is_last: false }
    }

    /// Further bytes stay in the kernel while a request is unanswered. The poll still reports that
    /// the client has left.
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

    /// Whether the next request may be read.
    fn is_free(&self) -> bool {
        self.asked.is_none() && self.output.is_empty() && !self.is_last
    }

    /// Sends, reads and parses as far as possible. `tickets` counts issued tickets.
    fn advance(&mut self, now: Time, tickets: &mut u64) -> Result<Option<(Ticket, Request)>, Gone> {
        self.send(now)?;
        if !self.is_free() {
            // No read is made while a request is unanswered, so the poll alone tells whether the
            // client has left.
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
                *tickets += 1;
                let ticket = Ticket(*tickets);
                self.asked = Some(ticket);
                self.is_last |= ended;
                Ok(Some((ticket, request)))
            }
            Err(malformed) => {
                warn!(pid = self.peer, "control client refused: {malformed}");
                self.is_last = true;
                self.say([refusal(&malformed.to_string())], now);
                self.send(now).map(|()| None)
            }
        }
    }

    /// Whether the client has closed the socket, rather than only its sending side.
    fn has_left(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_ok() && !fds[0].revents().is_empty()
    }

    fn is_patient(&self, now: Time) -> Result<(), Gone> {
        if self.asked.is_some() || now < self.until {
            return Ok(());
        }
        if !self.output.is_empty() {
            warn!(pid = self.peer, "control client dropped: it does not read its answer");
        } else if !self.input.is_empty() {
            warn!(pid = self.peer, "control client refused: {}", Malformed::Unfinished);
            let _ =
                send(&self.socket, &line(&refusal(&Malformed::Unfinished.to_string())), SendFlags::NOSIGNAL);
        }
        Err(Gone)
    }

    /// Reads until a line is complete, the socket is empty, or the line is too long. True at the
    /// end of input.
    fn receive(&mut self, now: Time) -> Result<bool, Gone> {
        let mut buffer = [0; 4096];
        while self.input.len() <= LINE_MAX && !self.input.contains(&b'\n') {
            match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Ok(true),
                Ok((n, _)) => {
                    // The time for a line counts from its first byte, whatever follows.
                    if self.input.is_empty() {
                        self.until = now + PATIENCE;
                    }
                    self.input.extend_from_slice(&buffer[..n]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Gone),
            }
        }
        Ok(false)
    }

    /// Takes the next line from the input, without its end.
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
            warn!(pid = self.peer, "control answer not sent: longer than {OUTPUT_MAX} bytes");
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
