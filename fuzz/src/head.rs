//! Request heads: the input is what a client sends.
//!
//! The parser is compared with two others: httparse, limited to lines that end with CRLF; and a
//! line-by-line reading of the RFC, which is slow, has the whole head at once, and names every
//! fault. It is also compared with itself, however few bytes have arrived.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use remuda_core::config::Limits;
use remuda_core::fuzz::{BodyFraming, Meaning, head};
use remuda_core::http1::{Refusal, RequestHead, Version};

/// Checks the parsing of `input` under default limits, and under limits that it will exceed.
pub fn check(input: &[u8]) {
    let mut tight = Limits::default();
    (tight.head, tight.request_line, tight.fields, tight.field_size) = (60, 24, 3, 20);
    for limits in [Limits::default(), tight] {
        let mut parsed = RequestHead::default();
        let verdict = head(input, &limits, &mut parsed);
        agrees_with_its_beginnings(input, &limits, verdict);
        match (verdict, Reading::of(input, &limits)) {
            (Ok(Some(meaning)), Some(Reading { faults, meaning: read, lines })) => {
                assert!(faults.0.is_empty(), "accepted despite {faults:?}");
                assert_eq!(meaning, read);
                agrees_with_lines(&parsed, &lines);
                agrees_with_httparse(&input[..meaning.len], &parsed);
            }
            (Ok(Some(_)), None) => panic!("accepted before it had ended"),
            (Ok(None), Some(_)) => panic!("it has ended"),
            (Err(refusal), Some(Reading { faults, .. })) => {
                assert!(faults.0.contains(&refusal.status()), "{refusal:?} is none of {faults:?}");
            }
            (Ok(None) | Err(_), None) => {}
        }
    }
}

/// The result depends on the bytes, not on how they arrive: with fewer bytes it is unknown, or the
/// same.
fn agrees_with_its_beginnings(input: &[u8], limits: &Limits, verdict: Result<Option<Meaning>, Refusal>) {
    let mut seen = RequestHead::default();
    let mut of = |end: usize| head(&input[..end], limits, &mut seen);
    if let Ok(Some(Meaning { len, .. })) = verdict {
        assert_eq!(of(len - 1), Ok(None), "the head has not ended yet");
        assert_eq!(of(len), verdict, "the head has ended");
    }
    let mut known = Ok(None);
    for end in (0..input.len()).step_by(input.len() / 40 + 1) {
        let answer = of(end);
        assert!(known == Ok(None) || answer == known, "{answer:?} after {end} bytes, {known:?} after fewer");
        known = answer;
    }
    assert!(known == Ok(None) || verdict == known, "{verdict:?} after all bytes, {known:?} after fewer");
}

fn agrees_with_httparse(bytes: &[u8], parsed: &RequestHead) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    // RFC 9110 §2.5: a higher minor version is processed as 1.1, but httparse refuses it.
    let minor = parsed.view().request_line().len() - 1 + start_of_line(bytes);
    let mut known = bytes.to_vec();
    known[minor] = known[minor].min(b'1');
    assert_eq!(request.parse(&known), Ok(httparse::Status::Complete(bytes.len())));
    let view = parsed.view();
    assert_eq!(request.method, Some(view.method()));
    assert_eq!(request.path, Some(view.target()));
    assert_eq!(request.version, Some(u8::from(view.version() == Version::Http11)));
    assert!(request.headers.iter().map(|field| (field.name, field.value)).eq(view.fields()));
    let line_ends = |byte: u8| bytes.iter().filter(|b| **b == byte).count();
    assert_eq!(line_ends(b'\n'), bytes.windows(2).filter(|two| two == b"\r\n").count(), "a lone LF");
    assert_eq!(line_ends(b'\n'), line_ends(b'\r'), "a lone CR");
}

/// The number of bytes before the request line.
fn start_of_line(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| b"\r\n".contains(byte)).count()
}

fn agrees_with_lines(parsed: &RequestHead, lines: &[&[u8]]) {
    let view = parsed.view();
    assert_eq!(view.request_line(), lines[0]);
    assert_eq!(view.fields().count(), lines.len() - 1);
    for ((name, value), line) in view.fields().zip(&lines[1..]) {
        let (expected, rest) = split_at_first(line, b':').expect("it was accepted");
        assert_eq!((name.as_bytes(), value), (expected, trim(rest)));
    }
    let (path, query) = (view.path(), view.query());
    let whole = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    assert!(!path.contains('?') || view.method() == "CONNECT");
    assert!(view.target().ends_with(&whole) || path == "/", "{whole:?} of {:?}", view.target());
}

/// A head as its lines say it, with all of its faults.
pub(crate) struct Reading<'a> {
    pub(crate) lines: Vec<&'a [u8]>,
    pub(crate) meaning: Meaning,
    pub(crate) faults: Faults,
}

/// The statuses that may answer a head. Empty if it has to be accepted.
#[derive(Default, Debug)]
pub(crate) struct Faults(pub(crate) BTreeSet<u16>);

impl Faults {
    fn unless(&mut self, fine: bool, refusal: Refusal) {
        if !fine {
            self.0.insert(refusal.status());
        }
    }
}

impl<'a> Reading<'a> {
    /// None if no empty line ends the head.
    pub(crate) fn of(input: &'a [u8], limits: &Limits) -> Option<Self> {
        // RFC 9112 §2.2: empty lines before the request line are ignored.
        let (mut start, mut lone_before) = (0, false);
        loop {
            match &input[start..] {
                [b'\r', b'\n', ..] => start += 2,
                [b'\n', ..] => (start, lone_before) = (start + 1, true),
                _ => break,
            }
        }
        let length = input[start..].windows(4).position(|end| end == b"\r\n\r\n")?;
        let text = &input[start..start + length];
        let mut lines = Vec::new();
        let mut from = 0;
        while let Some(at) = text[from..].windows(2).position(|end| end == b"\r\n") {
            lines.push(&text[from..from + at]);
            from += at + 2;
        }
        lines.push(&text[from..]);

        let mut faults = Faults::default();
        let lone = |line: &[u8]| line.iter().any(|byte| b"\r\n".contains(byte));
        faults.unless(!lone_before && !lone(lines[0]), Refusal::BadRequestLine);
        faults.unless(!lines[1..].iter().any(|line| lone(line)), Refusal::BadField);
        faults.unless(start + length + 4 <= limits.head, Refusal::FieldsTooLarge);
        // Where an LF that does not end a line may seem to, this reading cannot tell which lines
        // are too long or too many.
        let longest = lines[1..].iter().map(|line| line.len()).max().unwrap_or(0);
        let names_method = lines[0].iter().take(limits.request_line + 2).any(|byte| *byte == b' ');
        let too_long = if names_method { Refusal::UriTooLong } else { Refusal::UnknownMethod };
        faults.unless(lines[0].len() <= limits.request_line, too_long);
        faults.unless(
            longest <= limits.field_size
                && lines.len() - 1 <= limits.fields
                && !lines.iter().any(|line| lone(line)),
            Refusal::FieldsTooLarge,
        );
        let version = read_request_line(lines[0], &mut faults);
        let method = lines[0].split(|byte| *byte == b' ').next().unwrap_or_default();
        let meaning = read_fields(&lines[1..], method, version, start + length + 4, &mut faults);
        Some(Self { lines, meaning, faults })
    }
}

/// RFC 9112 §3: method, target and version, separated by single spaces.
fn read_request_line(line: &[u8], faults: &mut Faults) -> Version {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = [0, 1, 2].map(|at| words.get(at).copied().unwrap_or_default());
    let is_version = matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, ..]
        if major.is_ascii_digit() && minor.is_ascii_digit());
    // RFC 9110 §2.5.
    faults.unless(!is_version || version[5] == b'1', Refusal::UnknownVersion);
    let fits = words.len() == 3 && is_token(method) && is_version && version.len() == 8;
    faults.unless(fits, Refusal::BadRequestLine);
    let target = str::from_utf8(target).map_err(|_| Refusal::BadRequestLine);
    if let Err(refusal) = target.and_then(|target| read_target(method, target)) {
        faults.unless(false, refusal);
    }
    if version == b"HTTP/1.0" { Version::Http10 } else { Version::Http11 }
}

/// RFC 9112 §5, and the meaning of the fields that belong to the connection.
fn read_fields(lines: &[&[u8]], method: &[u8], version: Version, len: usize, faults: &mut Faults) -> Meaning {
    let mut fields = Vec::new();
    for line in lines {
        let field = split_at_first(line, b':').map(|(name, value)| (name.to_ascii_lowercase(), trim(value)));
        let fits = field.as_ref().is_some_and(|(name, value)| {
            is_token(name) && value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control())
        });
        faults.unless(fits, Refusal::BadField);
        fields.extend(field);
    }
    let all = |name: &str| {
        fields.iter().filter(move |(n, _)| n == name.as_bytes()).map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let members = |name: &str| {
        let lists = all(name);
        let members = lists.iter().flat_map(|list| list.split(|byte| *byte == b','));
        members.map(|member| trim(member).to_ascii_lowercase()).collect::<Vec<_>>()
    };
    let is_1_1 = version == Version::Http11;

    let hosts = all("host");
    // RFC 9112 §3.2.
    faults.unless(hosts.len() <= 1 && (!hosts.is_empty() || !is_1_1), Refusal::BadHost);
    faults.unless(hosts.iter().all(|host| is_authority(host)), Refusal::BadHost);

    // RFC 9112 §6.3.
    let lengths = all("content-length");
    let numbers: Vec<Option<u64>> = lengths.iter().map(|text| number(text)).collect();
    let length = numbers.first().copied().flatten();
    faults.unless(numbers.iter().all(Option::is_some) && numbers.len() <= 1, Refusal::BadContentLength);
    let codings = all("transfer-encoding");
    let chunked = !codings.is_empty();
    let known = codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked");
    if chunked {
        faults.unless(is_1_1 && lengths.is_empty(), Refusal::AmbiguousFraming);
        let listed = members("transfer-encoding");
        let is_coding =
            |name: &Vec<u8>| is_token(trim(name.split(|byte| *byte == b';').next().unwrap_or_default()));
        let has_parameters =
            |name: &Vec<u8>| split_at_first(name, b';').is_some_and(|(name, _)| trim(name) == b"chunked");
        let at = listed.iter().position(|name| name == b"chunked");
        let clear = at.is_none_or(|at| at + 1 == listed.len())
            && listed.iter().all(is_coding)
            && !listed.iter().any(has_parameters);
        faults.unless(known || clear, Refusal::AmbiguousFraming);
        faults.unless(known || !clear, Refusal::UnknownTransferCoding);
    }

    let options = members("connection");
    let has = |option: &str| options.iter().any(|o| o == option.as_bytes());
    let expected = members("expect");
    let others = expected.iter().any(|other| !other.is_empty() && other != b"100-continue");
    faults.unless(!is_1_1 || !others, Refusal::UnknownExpectation);
    let expects = expected.iter().any(|expectation| expectation == b"100-continue");
    Meaning {
        len,
        framing: if chunked { BodyFraming::Chunked } else { BodyFraming::Length(length.unwrap_or(0)) },
        // RFC 9110 §9.3.6: bytes after a CONNECT may be meant for the tunnel.
        keep_alive: !has("close") && (is_1_1 || has("keep-alive")) && method != b"CONNECT",
        expects_continue: is_1_1 && expects,
        offers_upgrade: is_1_1 && has("upgrade") && !all("upgrade").is_empty(),
    }
}

/// RFC 9112 §3.2: the four forms.
fn read_target(method: &[u8], target: &str) -> Result<(), Refusal> {
    let fits = match method {
        b"CONNECT" => {
            let port = target.rsplit_once(':').map(|(_, port)| port);
            port.is_some_and(|port| number(port.as_bytes()).is_some()) && is_authority(target.as_bytes())
        }
        b"OPTIONS" if target == "*" => true,
        _ if target.starts_with('/') => is_origin(target),
        _ => {
            let (scheme, rest) = target.split_once("://").ok_or(Refusal::BadRequestLine)?;
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            let fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
                && is_authority(authority.as_bytes())
                && is_origin(&rest[authority.len()..]);
            if fits && !scheme.eq_ignore_ascii_case("http") {
                return Err(Refusal::Misdirected);
            }
            fits
        }
    };
    if fits { Ok(()) } else { Err(Refusal::BadRequestLine) }
}

/// RFC 3986 §3.3 and §3.4, and characters that browsers do not escape.
fn is_origin(text: &str) -> bool {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let mut parts = path.as_bytes().split(|byte| *byte == b'%');
    let plain = |part: &[u8]| {
        part.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/[]|".contains(byte))
    };
    let escaped = |part: &[u8]| match part {
        [a, b, rest @ ..] => a.is_ascii_hexdigit() && b.is_ascii_hexdigit() && plain(rest),
        _ => false,
    };
    parts.next().is_some_and(plain)
        && parts.all(escaped)
        && query.chars().all(|c| c.is_ascii_graphic() && !"\"#<>`".contains(c))
}

/// RFC 3986 §3.2.2 and §3.2.3, without the userinfo that RFC 9110 §4.2.4 warns of, and with a name
/// (§4.2.1) that is not a list.
fn is_authority(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else { return false };
    let (host, port) =
        match text.rfind(']').map_or_else(|| text.find(':'), |end| (end + 1 < text.len()).then_some(end + 1))
        {
            Some(at) => (&text[..at], Some(&text[at..])),
            None => (text, None),
        };
    let is_port = |port: &str| {
        port.strip_prefix(':').is_some_and(|digits| {
            digits.is_empty() || number(digits.as_bytes()).is_some_and(|port| port <= 65535)
        })
    };
    let address = host.strip_prefix('[').and_then(|literal| literal.strip_suffix(']'));
    let fits = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host.as_bytes()),
    };
    fits && !host.is_empty() && port.is_none_or(is_port)
}

fn is_name(name: &[u8]) -> bool {
    match name {
        [] => true,
        [b'%', a, b, rest @ ..] => a.is_ascii_hexdigit() && b.is_ascii_hexdigit() && is_name(rest),
        [byte, rest @ ..] => {
            (byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(byte)) && is_name(rest)
        }
    }
}

pub(crate) fn is_token(name: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(token)
}

/// Digits only, any number of them, as long as the value fits into 64 bits.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// The text without the surrounding white space of RFC 9110 §5.6.3.
pub(crate) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

pub(crate) fn split_at_first(line: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|b| *b == byte)?;
    Some((&line[..at], &line[at + 1..]))
}
