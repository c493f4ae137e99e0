//! An HTTP/1.1 client that verifies everything.
//!
//! It sends bytes as they are given and reads responses strictly by RFC 9112 §6: a missing, doubled
//! or wrong length, a chunk without its CRLF, a body that ends early is an error and never a short
//! success. It reports how a connection ended, because half of the contract is about that. Every
//! wait has a limit.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use socket2::{Domain, SockAddr, Socket, Type};

pub mod remote;

/// How long a client waits for anything that should come at once, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a client waits for a whole body, however large it is.
const BODY_PATIENCE: Duration = Duration::from_secs(40);

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Inet(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Opens a connection, within `limit`.
    ///
    /// # Errors
    ///
    /// As connect(2). `ConnectionRefused` if the server does not listen.
    pub fn connect(&self, limit: Duration) -> io::Result<Client> {
        let (domain, address) = match self {
            Self::Inet(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Self::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.connect_timeout(&address, limit)?;
        if matches!(self, Self::Inet(_)) {
            socket.set_tcp_nodelay(true)?;
        }
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { socket, unread: Vec::new() })
    }

    /// Connects again and again until a connect is refused, and returns when that was. None: never
    /// within `limit`.
    ///
    /// Each attempt ends after a moment, because a dropped SYN would be sent again only after a
    /// second.
    pub fn refused(&self, limit: Duration) -> Option<Instant> {
        let start = Instant::now();
        while start.elapsed() < limit {
            match self.connect(Duration::from_millis(20)) {
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {
                    return Some(Instant::now());
                }
                _ => thread::sleep(Duration::from_millis(2)),
            }
        }
        None
    }
}

/// One connection to a server.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    /// Received and not yet used.
    unread: Vec<u8>,
}

/// How a connection ended, as its client saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum End {
    /// The server has ended its side in order.
    Fin,
    /// The connection was reset, so bytes in flight may be lost.
    Reset,
    /// It had not ended within the limit.
    StillOpen,
}

/// A response that did not arrive whole, or is malformed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Broken {
    /// The connection or the time limit ended before the response was complete.
    Cut {
        /// Which of the two.
        end: End,
        /// Received bytes that are not part of a complete element.
        unread: String,
    },
    /// The bytes are no response by RFC 9112.
    Malformed(String),
}

/// The status line and fields of a response, and the body of a complete one.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case with their values, in the order they were sent.
    pub fields: Vec<(String, String)>,
    /// How the body ends.
    pub framing: Framing,
    /// The body, out of its framing.
    pub body: Vec<u8>,
}

/// How the end of a body is marked (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Framing {
    /// No body: HEAD, 1xx, 204 and 304.
    Nothing,
    /// This many bytes.
    Length(usize),
    /// By the last chunk.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

impl Client {
    /// Sends all of `bytes`. Panics if the server does not read them.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server takes what the client sends");
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    ///
    /// As write(2). `WouldBlock` if the server does not read them in time.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// Sends `bytes` one by one with `pause` after each, until the server stops reading.
    pub fn drip(&mut self, bytes: &[u8], pause: Duration) {
        for byte in bytes {
            if self.socket.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(pause);
        }
    }

    /// The sending side, for a thread of its own.
    pub fn sender(&self) -> impl Write + Send + use<> {
        self.socket.try_clone().expect("a socket can be duplicated")
    }

    /// The client's own address and port.
    pub fn local_address(&self) -> String {
        let address = self.socket.local_addr().ok().and_then(|address| address.as_socket());
        address.expect("it is no unix socket").to_string()
    }

    /// Ends the sending side.
    pub fn half_close(&self) {
        self.socket.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// Sends `bytes` and ends the sending side with them. On TCP both are in the same segment.
    #[track_caller]
    pub fn send_last(&mut self, bytes: impl AsRef<[u8]>) {
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            let sent = rustix::net::send(&self.socket, rest, SendFlags::MORE | SendFlags::NOSIGNAL);
            rest = &rest[sent.expect("the server takes what the client sends")..];
        }
        self.half_close();
    }

    /// Closes the connection without notice. On TCP with a reset.
    pub fn vanish(self) {
        if self.socket.domain().is_ok_and(|domain| domain != Domain::UNIX) {
            self.socket.set_linger(Some(Duration::ZERO)).expect("the connection is open");
        }
    }

    /// The next response. Panics if it does not arrive whole.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        whole("response", self.try_response())
    }

    /// The next response, or what is wrong with it.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub fn try_response(&mut self) -> Result<Response, Broken> {
        let mut response = self.try_head()?;
        self.try_body(&mut response)?;
        Ok(response)
    }

    /// The head of the next response. Its body can be read by [`try_body`](Self::try_body) or
    /// [`chunk`](Self::chunk). Panics if the head does not arrive whole.
    #[track_caller]
    pub fn head(&mut self) -> Response {
        whole("response head", self.try_head())
    }

    /// As [`head`](Self::head).
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub fn try_head(&mut self) -> Result<Response, Broken> {
        let deadline = Instant::now() + PATIENCE;
        let len = self.find(b"\r\n\r\n", deadline)?;
        let head: Vec<u8> = self.unread.drain(..len).collect();
        Response::parse(&head[..len - 4])
    }

    /// Reads the body of `response`, or the rest of it, into it. Panics if it does not arrive
    /// whole.
    #[track_caller]
    pub fn body(&mut self, response: &mut Response) {
        whole("body", self.try_body(response));
    }

    /// As [`body`](Self::body).
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub fn try_body(&mut self, response: &mut Response) -> Result<(), Broken> {
        let deadline = Instant::now() + BODY_PATIENCE;
        match response.framing {
            Framing::Nothing => Ok(()),
            Framing::Length(len) => {
                while response.body.len() < len {
                    self.need(1, deadline)?;
                    let take = self.unread.len().min(len - response.body.len());
                    response.body.extend(self.unread.drain(..take));
                }
                Ok(())
            }
            Framing::Chunked => {
                while let Some(chunk) = self.chunk_by(deadline)? {
                    response.body.extend(chunk);
                }
                Ok(())
            }
            Framing::UntilClose => loop {
                response.body.append(&mut self.unread);
                match self.fill(deadline) {
                    Ok(()) => {}
                    Err(End::Fin) => return Ok(()),
                    Err(end) => return Err(self.cut(end)),
                }
            },
        }
    }

    /// The data of the next chunk. None after the last one.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        self.chunk_by(Instant::now() + PATIENCE)
    }

    fn chunk_by(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>, Broken> {
        let len = self.find(b"\r\n", deadline)?;
        let line: Vec<u8> = self.unread.drain(..len).collect();
        let size = str::from_utf8(&line[..len - 2]).ok().filter(|s| s.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else {
            return Err(malformed("chunk size", &line));
        };
        self.need(size + 2, deadline)?;
        let mut data: Vec<u8> = self.unread.drain(..size + 2).collect();
        if !data.ends_with(b"\r\n") {
            return Err(malformed("end of a chunk", &data[size..]));
        }
        data.truncate(size);
        Ok((size > 0).then_some(data))
    }

    /// The next `n` raw bytes, for connections that no longer speak HTTP. Panics if they do not
    /// arrive.
    #[track_caller]
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        whole("answer", self.need(n, Instant::now() + PATIENCE));
        self.unread.drain(..n).collect()
    }

    /// Waits at most `limit` for the end of the connection. Panics if anything else arrives.
    #[track_caller]
    pub fn end(&mut self, limit: Duration) -> End {
        let deadline = Instant::now() + limit;
        let end = loop {
            if let Err(end) = self.fill(deadline) {
                break end;
            }
        };
        assert!(self.unread.is_empty(), "unexpected bytes arrived: {:?}", lossy(&self.unread));
        end
    }

    /// Ends the sending side, and waits at most [`PATIENCE`] for the end of the connection. Bytes
    /// before it are ignored.
    pub fn give_up(&mut self) -> End {
        // The connection may have ended already.
        let _ = self.socket.shutdown(Shutdown::Write);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Err(end) = self.fill(deadline) {
                return end;
            }
        }
    }

    /// Sends bytes at intervals until the connection is reset, which shows that the server has
    /// closed all of it. Returns when that was. None: not within `limit`.
    pub fn reset(&mut self, limit: Duration) -> Option<Instant> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.socket.write_all(b"x").is_err() {
                return Some(Instant::now());
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Waits until something can be read, or the connection has ended. `false` after `limit`.
    pub fn has_more(&mut self, limit: Duration) -> bool {
        !self.unread.is_empty() || self.fill(Instant::now() + limit) != Err(End::StillOpen)
    }

    /// All bytes until the connection ends or is silent for `limit`, and how it has ended.
    pub fn rest(&mut self, limit: Duration) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill(Instant::now() + limit) {
                return (mem::take(&mut self.unread), end);
            }
        }
    }

    /// Waits for more bytes. The error is how the connection ended.
    fn fill(&mut self, deadline: Instant) -> Result<(), End> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).map_err(|_| End::Reset)?;
        let mut buffer = [0; 64 * 1024];
        loop {
            return match self.socket.read(&mut buffer) {
                Ok(0) => Err(End::Fin),
                Ok(n) => {
                    self.unread.extend_from_slice(&buffer[..n]);
                    Ok(())
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => continue,
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(End::StillOpen),
                    _ => Err(End::Reset),
                },
            };
        }
    }

    /// Waits until at least `n` bytes are unread.
    fn need(&mut self, n: usize, deadline: Instant) -> Result<(), Broken> {
        while self.unread.len() < n {
            self.fill(deadline).map_err(|end| self.cut(end))?;
        }
        Ok(())
    }

    /// Waits for `mark` and returns the offset after it.
    fn find(&mut self, mark: &[u8], deadline: Instant) -> Result<usize, Broken> {
        loop {
            if let Some(at) = self.unread.windows(mark.len()).position(|window| window == mark) {
                return Ok(at + mark.len());
            }
            self.fill(deadline).map_err(|end| self.cut(end))?;
        }
    }

    fn cut(&self, end: End) -> Broken {
        Broken::Cut { end, unread: lossy(&self.unread) }
    }
}

impl Response {
    /// The value of the only field called `name`, which is in lower case. None: there is no such
    /// field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether the response announces close.
    pub fn announces_close(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        lossy(&self.body)
    }

    /// The number called `name` in a body that is JSON.
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        let text = self.text();
        let value = text.split_once(&format!("\"{name}\"")).and_then(|(_, rest)| {
            let digits = rest.trim_start().strip_prefix(':')?.trim_start();
            digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        value.unwrap_or_else(|| panic!("no number {name:?} in {text}"))
    }

    /// Parses a head that is complete except for its empty line.
    fn parse(head: &[u8]) -> Result<Self, Broken> {
        let text = str::from_utf8(head).map_err(|_| malformed("response head", head))?;
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.split_once(' '))
            .filter(|(code, _)| code.len() == 3)
            .and_then(|(code, _)| code.parse().ok())
            .ok_or_else(|| malformed("status line", line.as_bytes()))?;
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line
                .split_once(':')
                .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
                .filter(|(_, value)| !value.contains(['\r', '\n']))
                .ok_or_else(|| malformed("field line", line.as_bytes()))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        for single in ["content-length", "transfer-encoding", "connection", "date"] {
            if fields.iter().filter(|(name, _)| name == single).count() > 1 {
                return Err(malformed("head with a field twice", head));
            }
        }
        let mut response = Self { status, fields, framing: Framing::Nothing, body: Vec::new() };
        response.framing = response.frame().ok_or_else(|| malformed("framing", head))?;
        Ok(response)
    }

    /// How the body ends, unless the request was HEAD. None: the fields contradict the status or
    /// one another.
    fn frame(&self) -> Option<Framing> {
        let (length, coding) = (self.field("content-length"), self.field("transfer-encoding"));
        match (self.status, length, coding) {
            (100..=199 | 204, None, None) | (304, _, None) => Some(Framing::Nothing),
            (100..=199 | 204 | 304, _, _) => None,
            (_, None, None) => Some(Framing::UntilClose),
            (_, None, Some(coding)) => (coding == "chunked").then_some(Framing::Chunked),
            (_, Some(digits), None) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().map(Framing::Length)
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Response {
    /// Status, fields and the first bytes of the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.body[..self.body.len().min(200)];
        write!(f, "{} {:?} {} bytes {:?}", self.status, self.fields, self.body.len(), lossy(start))
    }
}

impl Broken {
    /// Whether the server ended the connection before the response was complete.
    pub fn is_cut_by_server(&self) -> bool {
        matches!(self, Self::Cut { end: End::Fin | End::Reset, .. })
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut { end: End::StillOpen, unread } => {
                write!(f, "nothing more came in time after {unread:?}")
            }
            Self::Cut { end, unread } => write!(f, "{end:?} after {unread:?}"),
            Self::Malformed(what) => write!(f, "malformed {what}"),
        }
    }
}

/// Returns what arrived. Panics at the caller if it did not arrive whole.
#[track_caller]
fn whole<T>(what: &str, result: Result<T, Broken>) -> T {
    match result {
        Ok(whole) => whole,
        Err(broken) => panic!("no whole {what}: {broken}"),
    }
}

fn malformed(what: &str, bytes: &[u8]) -> Broken {
    Broken::Malformed(format!("{what}: {:?}", lossy(bytes)))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
