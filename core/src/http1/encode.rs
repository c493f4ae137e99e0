//! Encodes response heads (RFC 9112 §4, §6).
//!
//! An application's fields are checked and encoded as they are added, so that encoding a head is a
//! few copies. Fields that belong to the connection are removed: the machine decides framing and
//! `Connection`, and writes those fields itself.

use std::fmt;

use http::StatusCode;
use thiserror::Error;

use super::chunked::is_token;
use super::date::HttpDate;
use super::head::Version;

/// The head of a response: status and fields.
///
/// ```
/// use remuda_core::http1::ResponseHead;
///
/// let head = ResponseHead::new(200).field("Content-Type", "text/plain");
/// let head = head.field("Content-Length", "5");
/// assert_eq!(head.status(), 200);
/// assert_eq!(head.content_length(), Some(5));
/// // A line break in a value is refused when the head is sent.
/// assert!(ResponseHead::new(200).field("X-Name", "a\r\nb").check().is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ResponseHead {
    status: StatusCode,
    /// The fields as they will be sent, each with its CRLF.
    fields: Vec<u8>,
    content_length: Option<u64>,
    has_date: bool,
    wants_close: bool,
    upgrade: Option<Box<str>>,
    /// Names of trailer fields that the application announces.
    trailer: Option<Box<[u8]>>,
    /// The names in the application's own Connection field.
    hops: Vec<Box<[u8]>>,
    error: Option<FieldError>,
}

/// Why a response head cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The status is not one of three digits from 100 to 999.
    #[error("status {0} is not a number from 100 to 999")]
    Status(u16),
    /// The name is not a token (RFC 9110 §5.1).
    #[error("field name {0:?} is not a token")]
    Name(String),
    /// The value has a line break or a control character (RFC 9110 §5.5).
    #[error("the value of field {0:?} has a control character")]
    Value(String),
    /// Content-Length is not a number, or there are two that differ.
    #[error("content-length {0:?} is not a number, or not the only one")]
    ContentLength(String),
}

/// How long the body of a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "a length is known or it is not")]
pub enum BodyLen {
    /// This many bytes, announced in Content-Length.
    Exact(u64),
    /// Unknown: the body is chunked or, for HTTP/1.0, ends with the connection.
    Unknown,
}

/// How the machine frames a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No content and no framing field (1xx, 204).
    Nothing,
    Length(u64),
    Chunked,
    /// The body ends with the connection (HTTP/1.0).
    UntilClose,
}

/// The `Connection` field of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionField {
    /// Absent: persistence is the version's default.
    Default,
    KeepAlive,
    Close,
    Upgrade,
}

impl ResponseHead {
    /// A head with `status` and no fields.
    ///
    /// A status outside 100 to 999 makes sending it fail.
    pub fn new(status: u16) -> Self {
        match StatusCode::from_u16(status) {
            Ok(code) => Self::within(code, Vec::new()),
            Err(_) => {
                let error = Some(FieldError::Status(status));
                Self { error, ..Self::within(StatusCode::INTERNAL_SERVER_ERROR, Vec::new()) }
            }
        }
    }

    /// A head with `status` whose fields are kept in `storage`.
    pub(crate) fn within(status: StatusCode, mut storage: Vec<u8>) -> Self {
        storage.clear();
        Self {
            status,
            fields: storage,
            content_length: None,
            has_date: false,
            wants_close: false,
            upgrade: None,
            trailer: None,
            hops: Vec::new(),
            error: None,
        }
    }

    /// Returns the storage.
    #[inline]
    pub(crate) fn into_storage(self) -> Vec<u8> {
        self.fields
    }

    /// Adds a field. An invalid one makes sending the head fail, with the error of the first.
    ///
    /// `Connection: close` is a request to end the connection, `Content-Length` is the length of
    /// the body, `Upgrade` is sent only with a 101 or 426, and `Trailer` only if there can be
    /// trailer fields. The other fields that belong to the connection (RFC 9110 §7.6.1), and those
    /// that a `Connection` field names, are dropped.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.push_field(name, value.as_ref());
        self
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// The value of a Content-Length field among the fields.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// The first error of the head.
    ///
    /// # Errors
    ///
    /// See [`FieldError`].
    pub fn check(&self) -> Result<(), FieldError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// About how many bytes it takes when it is sent.
    pub(crate) fn size(&self) -> usize {
        64 + self.fields.len()
    }

    /// Whether the application announces trailer fields.
    pub(crate) fn announces_trailers(&self) -> bool {
        self.trailer.is_some()
    }

    /// Whether the application asked for the connection to end.
    pub(crate) fn wants_close(&self) -> bool {
        self.wants_close
    }

    /// Whether a response with this status has no content, whatever its fields say (RFC 9110
    /// §6.4.1, §15.3.6).
    pub(crate) fn is_bodiless(&self) -> bool {
        self.status.is_informational() || matches!(self.status.as_u16(), 204 | 205 | 304)
    }

    fn push_field(&mut self, name: &str, value: &[u8]) {
        if name.is_empty() || !name.bytes().all(is_token) {
            self.error.get_or_insert_with(|| FieldError::Name(name.to_owned()));
            return;
        }
        if value.iter().any(|&b| b != b'\t' && b.is_ascii_control()) {
            self.error.get_or_insert_with(|| FieldError::Value(name.to_owned()));
            return;
        }
        self.push_valid(name, value);
    }

    /// Adds a field whose name and value are known to be valid.
    pub(crate) fn push_valid(&mut self, name: &str, value: &[u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is("te") => return,
            7 if is("upgrade") => {
                self.upgrade = Some(String::from_utf8_lossy(value).into());
                return;
            }
            7 if is("trailer") => return self.announce_trailers(value),
            10 if is("connection") => return self.set_connection(value),
            10 if is("keep-alive") => return,
            14 if is("content-length") => return self.set_content_length(value),
            16 if is("proxy-connection") => return,
            17 if is("transfer-encoding") => return,
            _ => {}
        }
        if self.hops.iter().any(|hop| name.as_bytes().eq_ignore_ascii_case(hop)) {
            return;
        }
        self.has_date |= is("date");
        self.fields.reserve(name.len() + value.len() + 4);
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": ");
        self.fields.extend_from_slice(value);
        self.fields.extend_from_slice(b"\r\n");
    }

    /// Reads the request to close. Other options belong to another connection (RFC 9110 §7.6.1), so
    /// the fields they name are dropped.
    fn set_connection(&mut self, value: &[u8]) {
        for option in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            let is = |other: &[u8]| option.eq_ignore_ascii_case(other);
            if is(b"close") {
                self.wants_close = true;
            } else if !option.is_empty() && !is(b"keep-alive") && !is(b"upgrade") {
                self.drop_field(option);
                self.hops.push(option.into());
            }
        }
    }

    fn drop_field(&mut self, name: &[u8]) {
        let is_other = |line: &&[u8]| {
            !line.split(|&b| b == b':').next().is_some_and(|other| other.eq_ignore_ascii_case(name))
        };
        let lines = self.fields.split_inclusive(|&b| b == b'\n');
        self.fields = lines.filter(is_other).flatten().copied().collect();
        self.has_date &= !name.eq_ignore_ascii_case(b"date");
    }

    fn announce_trailers(&mut self, names: &[u8]) {
        let names = match self.trailer.take() {
            Some(others) => [&others, b", ".as_slice(), names].concat(),
            None => names.to_vec(),
        };
        self.trailer = Some(names.into());
    }

    fn set_content_length(&mut self, value: &[u8]) {
        let text = std::str::from_utf8(value).unwrap_or_default();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse().ok().filter(|_| digits) {
            Some(n) if self.content_length.is_none_or(|before| before == n) => self.content_length = Some(n),
            _ => {
                let text = String::from_utf8_lossy(value).into_owned();
                self.error.get_or_insert(FieldError::ContentLength(text));
            }
        }
    }
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.status, String::from_utf8_lossy(&self.fields))
    }
}

/// Appends the head to `out`. The status line has HTTP/1.1 for any request (RFC 9110 §2.5).
pub(crate) fn encode_head(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    framing: Framing,
    connection: ConnectionField,
    date: &HttpDate,
) {
    push_beginning(out, head);
    // RFC 9110 §6.6.1: an origin server with a clock sends Date in 2xx, 3xx and 4xx, and any server
    // may in 5xx.
    if !head.has_date && !head.status.is_informational() {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match framing {
        Framing::Length(n) => {
            out.extend_from_slice(b"Content-Length: ");
            push_decimal(out, n);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            // RFC 9110 §6.6.2: trailer fields should be announced.
            if let Some(names) = &head.trailer {
                out.extend_from_slice(b"Trailer: ");
                out.extend_from_slice(names);
                out.extend_from_slice(b"\r\n");
            }
        }
        Framing::Nothing | Framing::UntilClose => {}
    }
    out.extend_from_slice(match connection {
        ConnectionField::Default => b"",
        ConnectionField::KeepAlive => b"Connection: keep-alive\r\n",
        ConnectionField::Close => b"Connection: close\r\n",
        ConnectionField::Upgrade => b"Connection: upgrade\r\n",
    });
    // RFC 9110 §7.8, §15.5.22: the Upgrade of a 101 names the new protocol, that of a 426 the
    // protocols to ask for. Both also name the field in Connection.
    if let Some(protocol) = head.upgrade.as_deref().filter(|_| matches!(head.status(), 101 | 426)) {
        if connection != ConnectionField::Upgrade {
            out.extend_from_slice(b"Connection: upgrade\r\n");
        }
        out.extend_from_slice(b"Upgrade: ");
        out.extend_from_slice(protocol.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of an interim response to `out` (RFC 9110 §15.2), without framing, connection
/// and date.
pub(crate) fn encode_interim(out: &mut Vec<u8>, head: &ResponseHead) {
    push_beginning(out, head);
    out.extend_from_slice(b"\r\n");
}

/// Appends the status line and the application's fields.
fn push_beginning(out: &mut Vec<u8>, head: &ResponseHead) {
    out.reserve(128 + head.fields.len());
    if head.status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(head.status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(&head.fields);
}

/// The framing of a response, by the request's method and version, its status and its length (RFC
/// 9112 §6.3).
///
/// A Content-Length among the fields overrides the length of the body. A body that differs from it
/// is detected later.
pub(crate) fn frame(head: &ResponseHead, len: BodyLen, is_head: bool, version: Version) -> Framing {
    match (head.status(), head.content_length, len) {
        // RFC 9110 §15.3.6: a 205 announces that it has no content.
        (205, ..) => Framing::Length(0),
        // RFC 9110 §8.6: no Content-Length in 1xx and 204. In a 304 it may be that of the 200.
        (304, Some(n), _) => Framing::Length(n),
        _ if head.is_bodiless() => Framing::Nothing,
        // RFC 9110 §9.3.2: the length of a HEAD response is that of the GET response.
        (_, Some(n), _) | (_, None, BodyLen::Exact(n)) => Framing::Length(n),
        (_, None, BodyLen::Unknown) if is_head => Framing::Nothing,
        (_, None, BodyLen::Unknown) if version == Version::Http11 => Framing::Chunked,
        (_, None, BodyLen::Unknown) => Framing::UntilClose,
    }
}

/// Appends a number in decimal digits.
#[inline]
pub(crate) fn push_decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut text = [0; 20];
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[start..]);
}

#[cfg(test)]
mod tests;
