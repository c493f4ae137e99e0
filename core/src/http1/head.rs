//! Request heads: their parts as spans into the buffer that they arrived in.

use std::fmt;
use std::ops::Range;
use std::str;

use bytes::{Bytes, BytesMut};

use super::framing::Decoder;
use super::refusal::Refusal;
use super::target::{authority, path_and_query};
use crate::client::Client;
use crate::config::READ_BUFFER;
use crate::trust::{Forwarded, Trusted, forwarded};

pub(crate) use self::parse::{HeadLimits, Parsed, parse_head};

mod parse;

/// The two versions that are supported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(clippy::exhaustive_enums, reason = "HTTP/1 will get no further versions")]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// A range of the buffer that holds the head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn of(part: &[u8], whole: &[u8]) -> Self {
        let start = part.as_ptr() as usize - whole.as_ptr() as usize;
        Self { start: start as u32, end: (start + part.len()) as u32 }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A complete head, with the buffer that holds it. Reused for the next request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The bytes that the spans refer to.
    pub(crate) buf: Vec<u8>,
    method: Span,
    target: Span,
    path: Span,
    query: Option<Span>,
    version: Version,
    fields: Vec<(Span, Span)>,
    /// How the body ends.
    pub(crate) framing: Decoder,
    /// Whether the client lets the connection persist (RFC 9112 §9.3).
    pub(crate) keep_alive: bool,
    /// Whether the client waits for a 100 (RFC 9110 §10.1.1).
    pub(crate) expects_continue: bool,
    /// Whether the client offers to change the protocol (RFC 9110 §7.8).
    pub(crate) offers_upgrade: bool,
    /// Whether it is a HEAD request.
    pub(crate) is_head: bool,
    /// Whether it has forwarding fields, which are recognized by their names only.
    pub(crate) is_forwarded: bool,
    /// The client. Written by the connection.
    pub(crate) client: Client,
    /// The requested host, if a trusted proxy has named it.
    forwarded_host: Option<Span>,
    /// Whether the request was refused, so that `buf` has only its first line.
    is_refused: bool,
}

impl Default for RequestHead {
    fn default() -> Self {
        Self {
            buf: Vec::new(),
            method: Span::default(),
            target: Span::default(),
            path: Span::default(),
            query: None,
            version: Version::Http11,
            fields: Vec::new(),
            framing: Decoder::none(),
            keep_alive: false,
            expects_continue: false,
            offers_upgrade: false,
            is_head: false,
            is_forwarded: false,
            client: Client::default(),
            forwarded_host: None,
            is_refused: false,
        }
    }
}

impl RequestHead {
    /// The head as user code sees it.
    pub fn view(&self) -> Head<'_> {
        Head { head: self }
    }

    /// The known part of a head that was refused: its first line, as far as it has arrived, and the
    /// parts of that line that can be recognized.
    pub(crate) fn of_refused(bytes: &[u8]) -> Self {
        let start = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len());
        let line = bytes[start..].split(|&byte| byte == b'\n').next().unwrap_or_default();
        // Anything after a method ends it.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let buf = line[..line.len().min(REFUSED_LINE)].to_vec();
        let mut request = httparse::Request::new(&mut []);
        // The result does not matter: the parts before the fault are set.
        let _ = request.parse(&buf);
        let span = |part: Option<&str>| part.map(|part| Span::of(part.as_bytes(), &buf)).unwrap_or_default();
        let (method, target) = (span(request.method), span(request.path));
        let parts = request.path.map(|target| {
            path_and_query(request.method.unwrap_or_default(), target).unwrap_or((target, None))
        });
        let (path, query) = parts.unzip();
        let (path, query) = (span(path), query.flatten().map(|query| span(Some(query))));
        let is_head = request.method == Some("HEAD");
        Self { buf, method, target, path, query, is_head, is_refused: true, ..Self::default() }
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Whether a field has an underscore in its name. The head is still at the beginning of
    /// `bytes`.
    pub(crate) fn has_underscores(&self, bytes: &[u8]) -> bool {
        self.fields.iter().any(|(name, _)| has_underscore(&bytes[name.range()]))
    }

    /// Drops the fields with an underscore in their names. The head is still at the beginning of
    /// `bytes`.
    pub(crate) fn drop_underscores(&mut self, bytes: &[u8]) {
        self.fields.retain(|(name, _)| !has_underscore(&bytes[name.range()]));
    }

    /// Applies the forwarding fields, which a trusted peer has sent. The head is still at the
    /// beginning of `bytes`.
    ///
    /// Returns false if a value could not be parsed and is ignored.
    ///
    /// # Errors
    ///
    /// The fields are malformed or contradictory.
    pub(crate) fn trust_forwarding(&mut self, bytes: &[u8], trusted: &Trusted) -> Result<bool, Refusal> {
        let fields = self.fields.iter().map(|(name, value)| (&bytes[name.range()], &bytes[value.range()]));
        let Forwarded { node, scheme, host, is_unclear } = forwarded(fields, trusted)?;
        if let Some(node) = node {
            (self.client.ip, self.client.port) = (Some(node.ip), node.port);
        }
        self.client.scheme = scheme.unwrap_or_default();
        self.forwarded_host = host.map(|host| Span::of(host, bytes));
        Ok(!is_unclear)
    }

    pub(crate) fn forwarded_host_range(&self) -> Option<Range<usize>> {
        self.forwarded_host.map(Span::range)
    }

    /// Frees memory that only a large head needed.
    pub(crate) fn shrink(&mut self) {
        if self.buf.len() > READ_BUFFER {
            self.buf = Vec::new();
        }
        if self.fields.capacity() > FIELDS_ON_STACK {
            self.fields = Vec::new();
        }
    }

    /// Bytes of storage.
    #[cfg(test)]
    pub(crate) fn storage(&self) -> usize {
        self.buf.len() + self.fields.capacity() * size_of::<(Span, Span)>()
    }

    /// Copies its bytes into `room`, for heads that outlive this one. The ranges of the methods
    /// below lie within the copy. Memory of earlier copies is reused once they are dropped.
    #[inline]
    pub(crate) fn copy_into(&self, room: &mut BytesMut) -> Bytes {
        const LEAST: usize = 512;
        let end = self.fields.last().map_or(self.target, |(_, value)| *value).end;
        let head = &self.buf[..end as usize];
        if room.capacity() < head.len() {
            room.reserve(head.len().max(LEAST));
        }
        room.extend_from_slice(head);
        room.split().freeze()
    }

    /// Method and path as they are in the request line, to identify the request in logs.
    pub(crate) fn summary(&self) -> &[u8] {
        &self.buf[self.method.start as usize..self.path.end as usize]
    }

    pub(crate) fn method_range(&self) -> Range<usize> {
        self.method.range()
    }

    pub(crate) fn target_range(&self) -> Range<usize> {
        self.target.range()
    }

    pub(crate) fn field_ranges(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        self.fields.iter().map(|(name, value)| (name.range(), value.range()))
    }

    pub(crate) fn field_count(&self) -> usize {
        self.fields.len()
    }

    fn str(&self, span: Span) -> &str {
        // httparse checks methods, targets and names.
        str::from_utf8(&self.buf[span.range()]).unwrap_or_default()
    }
}

/// The head of a request, borrowed.
///
/// ```
/// use remuda_core::app::{AppError, BodyReader, Responder};
/// use remuda_core::http1::{Head, ResponseHead};
///
/// fn describe(head: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
///     let agent = head.field("User-Agent").map(String::from_utf8_lossy).unwrap_or_default();
///     let text = format!("{} {} from {agent}\n", head.method(), head.path());
///     Ok(out.send(ResponseHead::new(200), text)?)
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Head<'a> {
    head: &'a RequestHead,
}

impl<'a> Head<'a> {
    /// The method, as it was sent: methods are case-sensitive (RFC 9110 §9.1).
    pub fn method(&self) -> &'a str {
        self.head.str(self.head.method)
    }

    /// The request target, as it was sent (RFC 9112 §3.2).
    pub fn target(&self) -> &'a str {
        self.head.str(self.head.target)
    }

    /// The request line, as it was sent, without its end (RFC 9112 §3). Of a refused request it may
    /// be incomplete or malformed.
    pub fn request_line(&self) -> &'a [u8] {
        let RequestHead { buf, method, target, is_refused, .. } = self.head;
        match is_refused {
            true => buf,
            false => &buf[method.range().start..target.range().end + VERSION.len()],
        }
    }

    /// The target's path: the part before the first `?`, without scheme and authority.
    ///
    /// It begins with `/`, except for `OPTIONS *` and for CONNECT, whose target is a host and a
    /// port.
    pub fn path(&self) -> &'a str {
        match self.head.str(self.head.path) {
            "" => "/",
            path => path,
        }
    }

    /// The target's query: the part after the first `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.head.query.map(|query| self.head.str(query))
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// The client.
    pub fn client(&self) -> Client {
        self.head.client
    }

    /// The requested host, with an optional port: as a trusted proxy names it, else from a target
    /// in absolute form, else from the Host field (RFC 9112 §3.2.2). None if there is none of
    /// these, or it is empty.
    pub fn host(&self) -> Option<&'a [u8]> {
        let host = match self.head.forwarded_host {
            Some(host) => Some(&self.head.buf[host.range()]),
            None => authority(self.target()).map(str::as_bytes).or_else(|| self.field("host")),
        };
        host.filter(|host| !host.is_empty())
    }

    /// Whether the client offers an upgrade, to one of the protocols that its `Upgrade` fields
    /// list, in order of preference (RFC 9110 §7.8).
    pub fn offers_upgrade(&self) -> bool {
        self.head.offers_upgrade
    }

    /// The value of the first field called `name`. Case is ignored.
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        let RequestHead { buf, fields, .. } = self.head;
        let named = |(n, _): &&(Span, Span)| buf[n.range()].eq_ignore_ascii_case(name.as_bytes());
        fields.iter().find(named).map(|(_, value)| &buf[value.range()])
    }

    /// All fields, in the order they were sent.
    pub fn fields(&self) -> Fields<'a> {
        Fields { head: self.head, next: 0 }
    }
}

impl fmt::Debug for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method(), self.target())
    }
}

/// The fields of a head: names and values in the order they were sent.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    head: &'a RequestHead,
    next: usize,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = *self.head.fields.get(self.next)?;
        self.next += 1;
        Some((self.head.str(name), &self.head.buf[value.range()]))
    }
}

/// How many fields are parsed without an allocation.
const FIELDS_ON_STACK: usize = 128;

/// The part of a request line after the target.
const VERSION: &str = " HTTP/1.1";

/// How many bytes of the first line of a refused head are kept.
const REFUSED_LINE: usize = 8 * 1024;

fn has_underscore(name: &[u8]) -> bool {
    memchr::memchr(b'_', name).is_some()
}

#[cfg(test)]
mod tests;
