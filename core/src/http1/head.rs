//! Request heads: their parts as spans into the buffer that they arrived in.

use std::fmt;
use std::ops::Range;
use std::str;

use bytes::{Bytes, BytesMut};

use super::forwarded::{self, Forwarded};
use super::framing::{Decoder, Refusal};
use super::target::{authority, path_and_query};
use crate::client::Client;
use crate::config::READ_BUFFER;
use crate::trust::Trusted;

pub(crate) use self::parse::{HeadLimits, Parsed, parse_head};

mod parse;

/// The two versions this machine speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(clippy::exhaustive_enums, reason = "HTTP/1 will get no further versions")]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// A place in the buffer that holds the head.
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

/// A complete head, with the buffer it lives in. Reused from request to request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The bytes that the spans point into.
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
    /// Whether it has fields about forwarding, of which nothing is known but their names.
    pub(crate) is_forwarded: bool,
    /// Who has sent it. Written by the connection.
    pub(crate) client: Client,
    /// The host that it is for, if a trusted proxy has named it.
    forwarded_host: Option<Span>,
    /// Whether the bytes are those of its first line and no others, because it was refused.
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
    /// What user code sees of it.
    pub fn view(&self) -> Head<'_> {
        Head { head: self }
    }

    /// What there is of a head that was refused: its first line, as far as it has arrived, and the parts of that which can
    /// be told apart.
    pub(crate) fn of_refused(bytes: &[u8]) -> Self {
        let start = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len());
        let line = bytes[start..].split(|&byte| byte == b'\n').next().unwrap_or_default();
        // What follows a method ends it, even if nothing else does.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let buf = line[..line.len().min(REFUSED_LINE)].to_vec();
        let mut request = httparse::Request::new(&mut []);
        // Whatever that says: what comes before the fault has been understood.
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

    /// Whether the name of a field has an underscore. The head is still at the beginning of `bytes`.
    pub(crate) fn has_underscores(&self, bytes: &[u8]) -> bool {
        self.fields.iter().any(|(name, _)| has_underscore(&bytes[name.range()]))
    }

    /// Leaves out the fields with an underscore in their names. The head is still at the beginning of `bytes`.
    pub(crate) fn drop_underscores(&mut self, bytes: &[u8]) {
        self.fields.retain(|(name, _)| !has_underscore(&bytes[name.range()]));
    }

    /// Believes what the fields about forwarding say, because a trusted peer has sent them. The head is still at the
    /// beginning of `bytes`.
    ///
    /// # Errors
    ///
    /// They are malformed or contradictory.
    pub(crate) fn believe(&mut self, bytes: &[u8], trusted: &Trusted) -> Result<(), Refusal> {
        let fields = self.fields.iter().map(|(name, value)| (&bytes[name.range()], &bytes[value.range()]));
        let Forwarded { node, scheme, host } = forwarded::forwarded(fields, trusted)?;
        if let Some(node) = node {
            (self.client.ip, self.client.port) = (Some(node.ip), node.port);
        }
        self.client.scheme = scheme.unwrap_or_default();
        self.forwarded_host = host.map(|host| Span::of(host, bytes));
        Ok(())
    }

    pub(crate) fn forwarded_host_range(&self) -> Option<Range<usize>> {
        self.forwarded_host.map(Span::range)
    }

    /// Gives memory back that only a large head needed.
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

    /// A copy of its bytes in `room`, for heads that outlive this one. The ranges below are within it. What nobody uses
    /// any more of earlier copies is used again.
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

    /// Method and path as they stand in the request line, to tell people which request it is.
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
        // Methods, targets and names are checked by httparse; anything else would be a bug there.
        str::from_utf8(&self.buf[span.range()]).unwrap_or_default()
    }
}

/// The head of a request, borrowed.
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

    /// The request line, as it was sent, without its end (RFC 9112 §3). Of a request that was refused it may be a part,
    /// or no such line at all.
    pub fn request_line(&self) -> &'a [u8] {
        let RequestHead { buf, method, target, is_refused, .. } = self.head;
        match is_refused {
            true => buf,
            false => &buf[method.range().start..target.range().end + VERSION.len()],
        }
    }

    /// The target's path: what stands before the first `?`, without scheme and authority if it had them.
    ///
    /// It begins with `/`, but for `OPTIONS *` and for CONNECT, whose target is a host and a port.
    pub fn path(&self) -> &'a str {
        match self.head.str(self.head.path) {
            "" => "/",
            path => path,
        }
    }

    /// The target's query: what stands behind the first `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.head.query.map(|query| self.head.str(query))
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Who has sent the request.
    pub fn client(&self) -> Client {
        self.head.client
    }

    /// The host that the request is for, and perhaps a port: as a trusted proxy names it or, without one, as the target
    /// does in absolute form, or else the Host field (RFC 9112 §3.2.2). None where there is neither, or an empty one.
    pub fn host(&self) -> Option<&'a [u8]> {
        let host = match self.head.forwarded_host {
            Some(host) => Some(&self.head.buf[host.range()]),
            None => authority(self.target()).map(str::as_bytes).or_else(|| self.field("host")),
        };
        host.filter(|host| !host.is_empty())
    }

    /// Whether the client offers to change the protocol: to one of those that its `Upgrade` fields list, in order of
    /// preference (RFC 9110 §7.8).
    pub fn offers_upgrade(&self) -> bool {
        self.head.offers_upgrade
    }

    /// The value of the first field called `name`, in any case of letters.
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

/// What stands behind a target, on the same line.
const VERSION: &str = " HTTP/1.1";

/// Bytes that are kept of the first line of a head that was refused.
const REFUSED_LINE: usize = 8 * 1024;

fn has_underscore(name: &[u8]) -> bool {
    memchr::memchr(b'_', name).is_some()
}

#[cfg(test)]
mod tests;
