//! The format of an access log line: a text with gunicorn's atoms, or a JSON object.
//!
//! Everything that comes from a client or an application is escaped here, so that it can neither
//! end the line or a quoted part of it, nor act as a control sequence on a terminal that shows the
//! log.

use std::io::Write as _;
use std::net::IpAddr;

use thiserror::Error;

use crate::app::Answered;
use crate::http1::{HttpDate, push_decimal};

/// The format of an access log line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Format(Style);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Style {
    Line(Vec<Piece>),
    Json,
}

/// The [default](Format::DEFAULT).
impl Default for Format {
    fn default() -> Self {
        Self::parse(Self::DEFAULT, |_| None).expect("the default is a format")
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    Atom(Atom),
    RequestField(String),
    ResponseField(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Atom {
    Address,
    Nothing,
    User,
    Time,
    RequestLine,
    Method,
    Path,
    Query,
    Protocol,
    Status,
    Bytes,
    BytesOrNothing,
    Seconds,
    Millis,
    Micros,
    Decimal,
    Pid,
    Completion,
}

/// Why a text is not a format.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// An unknown atom.
    #[error("%({0})s is not an atom")]
    Unknown(String),
    /// A percent sign without an atom after it.
    #[error("a % has to begin an atom, as in %(h)s; to write one, it is %%")]
    Percent,
    /// A line break or another control character.
    #[error("it has a control character")]
    Control,
}

impl Format {
    /// The default, which is gunicorn's: the Combined Log Format.
    pub const DEFAULT: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

    /// What [`parse`](Self::parse) accepts, for error messages.
    pub const ALLOWED: &str = "json, or a text with %(NAME)s in it, NAME being one of h, l, u, t, r, m, U, q, H, s, B, b, \
        f, a, T, M, D, L, p, X, {field}i, {field}o, {VARIABLE}e";

    /// Parses a format: `json`, or a text in which atoms such as `%(h)s`, the client's address, are
    /// replaced; the book lists them. `variable` returns the value of an environment variable.
    ///
    /// # Errors
    ///
    /// See [`FormatError`].
    pub fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, FormatError> {
        if text == "json" {
            return Ok(Self(Style::Json));
        }
        if text.chars().any(char::is_control) {
            return Err(FormatError::Control);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            pieces.push(Piece::Text(before.to_owned()));
            if let Some(after) = after.strip_prefix('%') {
                pieces.push(Piece::Text("%".to_owned()));
                rest = after;
                continue;
            }
            let atom = after.strip_prefix('(').and_then(|atom| atom.split_once(")s"));
            let (name, after) = atom.ok_or(FormatError::Percent)?;
            pieces.push(piece(name, &variable).ok_or_else(|| FormatError::Unknown(name.to_owned()))?);
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        Ok(Self(Style::Line(pieces)))
    }

    /// Whether the format includes fields of responses.
    pub(super) fn wants_fields(&self) -> bool {
        match &self.0 {
            Style::Line(pieces) => pieces.iter().any(|piece| matches!(piece, Piece::ResponseField(_))),
            Style::Json => false,
        }
    }

    /// Appends the line, with its line break.
    pub(super) fn write(&self, answered: &Answered<'_>, moment: &Moment, out: &mut Vec<u8>) {
        match &self.0 {
            Style::Line(pieces) => pieces.iter().for_each(|piece| piece.write(answered, moment, out)),
            Style::Json => json(answered, moment, out),
        }
        out.push(b'\n');
    }
}

/// The time of a line, and the worker that writes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The time in seconds.
    pub(super) date: HttpDate,
    /// The milliseconds of that second.
    pub(super) millis: u32,
    /// The process id of the worker.
    pub(super) pid: u32,
}

impl Moment {
    /// As in `22/Nov/2026:16:43:07 +0000`.
    fn common(&self, out: &mut Vec<u8>) {
        let (day, month, year, time) = self.parts();
        for part in [day, b"/", month, b"/", year, b":", time, b" +0000"] {
            out.extend_from_slice(part);
        }
    }

    /// As in `2026-11-22T16:43:07.250Z` (RFC 3339).
    fn iso(&self, out: &mut Vec<u8>) {
        const MONTHS: [&[u8]; 12] =
            [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
        let (day, month, year, time) = self.parts();
        let month = MONTHS.iter().position(|name| *name == month).unwrap_or_default() + 1;
        out.extend_from_slice(year);
        number(out, format_args!("-{month:02}-"));
        out.extend_from_slice(day);
        out.push(b'T');
        out.extend_from_slice(time);
        number(out, format_args!(".{:03}Z", self.millis));
    }

    /// Day, month, year and time of an IMF-fixdate, which has them at fixed positions (RFC 9110
    /// §5.6.7).
    fn parts(&self) -> (&[u8], &[u8], &[u8], &[u8]) {
        let text = self.date.as_bytes();
        (&text[5..7], &text[8..11], &text[12..16], &text[17..25])
    }
}

/// The atom whose name stands between its parentheses.
fn piece(name: &str, variable: impl Fn(&str) -> Option<String>) -> Option<Piece> {
    if let Some((inner, kind)) = name.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        return match kind {
            _ if inner.is_empty() => None,
            "i" => Some(Piece::RequestField(inner.to_owned())),
            "o" => Some(Piece::ResponseField(inner.to_owned())),
            "e" => Some(Piece::Text(variable(inner).map_or_else(nothing, |value| {
                let mut text = Vec::new();
                escape(value.as_bytes(), &mut text);
                String::from_utf8(text).unwrap_or_default()
            }))),
            _ => None,
        };
    }
    Some(Piece::Atom(match name {
        "h" => Atom::Address,
        "l" => Atom::Nothing,
        "u" => Atom::User,
        "t" => Atom::Time,
        "r" => Atom::RequestLine,
        "m" => Atom::Method,
        "U" => Atom::Path,
        "q" => Atom::Query,
        "H" => Atom::Protocol,
        "s" => Atom::Status,
        "B" => Atom::Bytes,
        "b" => Atom::BytesOrNothing,
        "T" => Atom::Seconds,
        "M" => Atom::Millis,
        "D" => Atom::Micros,
        "L" => Atom::Decimal,
        "p" => Atom::Pid,
        "X" => Atom::Completion,
        "f" => return Some(Piece::RequestField("referer".to_owned())),
        "a" => return Some(Piece::RequestField("user-agent".to_owned())),
        _ => return None,
    }))
}

/// The text for a missing value.
fn nothing() -> String {
    "-".to_owned()
}

impl Piece {
    fn write(&self, answered: &Answered<'_>, moment: &Moment, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Atom(atom) => atom.write(answered, moment, out),
            Self::RequestField(name) => value(answered.head.field(name), out),
            Self::ResponseField(name) => value(answered.field(name), out),
        }
    }
}

impl Atom {
    fn write(self, answered: &Answered<'_>, moment: &Moment, out: &mut Vec<u8>) {
        let Answered { head, sent, took, .. } = answered;
        match self {
            Self::Address => match head.client().ip {
                Some(ip) => address(ip, out),
                None => out.push(b'-'),
            },
            Self::Nothing => out.push(b'-'),
            Self::User => value(user(answered).as_deref(), out),
            Self::Time => {
                out.push(b'[');
                moment.common(out);
                out.push(b']');
            }
            Self::RequestLine => value(Some(head.request_line()), out),
            Self::Method => value(Some(head.method().as_bytes()), out),
            Self::Path if head.target().is_empty() => out.push(b'-'),
            Self::Path => value(Some(head.path().as_bytes()), out),
            Self::Query => escape(head.query().unwrap_or_default().as_bytes(), out),
            Self::Protocol => value(protocol(answered), out),
            Self::Status => match answered.status {
                Some(status) => push_decimal(out, status.into()),
                None => out.push(b'-'),
            },
            Self::BytesOrNothing if *sent == 0 => out.push(b'-'),
            Self::Bytes | Self::BytesOrNothing => push_decimal(out, *sent),
            Self::Seconds => push_decimal(out, took.as_secs()),
            Self::Millis => number(out, format_args!("{}", took.as_millis())),
            Self::Micros => number(out, format_args!("{}", took.as_micros())),
            Self::Decimal => number(out, format_args!("{}.{:06}", took.as_secs(), took.subsec_micros())),
            Self::Pid => number(out, format_args!("<{}>", moment.pid)),
            Self::Completion => out.push(match (answered.cut, answered.closes) {
                (Some(_), _) => b'X',
                (None, false) => b'+',
                (None, true) => b'-',
            }),
        }
    }
}

/// IPv4 is formatted by hand: nearly every line of most logs begins with such an address.
fn address(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            for (n, octet) in ip.octets().into_iter().enumerate() {
                out.extend_from_slice(if n > 0 { b"." } else { b"" });
                push_decimal(out, octet.into());
            }
        }
        IpAddr::V6(ip) => number(out, format_args!("{ip}")),
    }
}

/// The JSON object of a line. Names, order and types of its members are stable; new members are
/// only added at the end.
fn json(answered: &Answered<'_>, moment: &Moment, out: &mut Vec<u8>) {
    let Answered { head, connection, status, sent, took, .. } = answered;
    let text = |out: &mut Vec<u8>, name: &str, value: Option<&[u8]>| {
        number(out, format_args!(",\"{name}\":"));
        match value.filter(|value| !value.is_empty()) {
            Some(value) => quote(value, out),
            None => out.extend_from_slice(b"null"),
        }
    };
    out.extend_from_slice(b"{\"time\":\"");
    moment.iso(out);
    number(out, format_args!("\",\"pid\":{}", moment.pid));
    let address = head.client().ip.map(|ip| ip.to_string());
    text(out, "remote", address.as_ref().map(String::as_bytes));
    text(out, "user", user(answered).as_deref());
    text(out, "request", Some(head.request_line()));
    text(out, "method", Some(head.method().as_bytes()));
    text(out, "target", Some(head.target().as_bytes()));
    text(out, "protocol", protocol(answered));
    match status {
        Some(status) => number(out, format_args!(",\"status\":{status}")),
        None => out.extend_from_slice(b",\"status\":null"),
    }
    number(out, format_args!(",\"bytes\":{sent},\"duration_us\":{}", took.as_micros()));
    text(out, "referer", head.field("referer"));
    text(out, "user_agent", head.field("user-agent"));
    number(out, format_args!(",\"connection_requests\":{}", connection.requests));
    number(out, format_args!(",\"scheme\":\"{}\"", head.client().scheme));
    text(out, "cut", answered.cut.map(|cut| cut.word().as_bytes()));
    out.push(b'}');
}

fn number(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a vector does not fail.
    let _ = out.write_fmt(text);
}

/// The version as the client sent it, also if it was refused.
fn protocol<'a>(answered: &Answered<'a>) -> Option<&'a [u8]> {
    let line = answered.head.request_line();
    let last = line.rsplit(|&byte| byte == b' ').next()?;
    last.starts_with(b"HTTP/").then_some(last)
}

/// The user name in the client's basic credentials (RFC 7617 §2), which remuda does not verify.
fn user(answered: &Answered<'_>) -> Option<Vec<u8>> {
    let (scheme, token) = answered.head.field("authorization")?.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut credentials = base64(token.trim_ascii())?;
    let end = credentials.iter().position(|&byte| byte == b':')?;
    credentials.truncate(end);
    Some(credentials)
}

/// Decodes base64 (RFC 4648 §4).
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits {
        let six = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

/// A value from outside, escaped, or a dash if it is missing.
fn value(value: Option<&[u8]>, out: &mut Vec<u8>) {
    match value.filter(|value| !value.is_empty()) {
        Some(value) => escape(value, out),
        None => out.push(b'-'),
    }
}

/// Copies printable ASCII except quotes and backslashes, and escapes anything else like `\x1B`.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| !is_plain(byte)) {
        out.extend_from_slice(&rest[..at]);
        number(out, format_args!("\\x{:02X}", rest[at]));
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// A JSON string (RFC 8259 §7). Control characters of every kind are escaped, and what is no
/// UTF-8 is replaced.
fn quote(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for char in String::from_utf8_lossy(bytes).chars() {
        match char {
            '"' | '\\' => number(out, format_args!("\\{char}")),
            // Also escaped: characters that some readers treat as a line break, and those that
            // change the direction of writing.
            _ if char.is_control() || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                number(out, format_args!("\\u{:04x}", u32::from(char)))
            }
            _ => number(out, format_args!("{char}")),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests;
