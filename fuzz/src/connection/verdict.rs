//! Properties of every connection that has ended.
//!
//! - The application has seen the requests that the bytes contain, in order, and the beginning of
//!   each body, or all of it if it was told of the end.
//! - The bytes sent are a sequence of well-formed responses, one for each request, with the
//!   application's content.
//! - After a response that announces close there is no other, and no request was read.
//! - Only a connection that failed, or was cut, ends within a response.

use http::Uri;
use remuda_core::fuzz::BodyFraming;
use remuda_core::http1::Version;
use remuda_core::machine::CloseReason;
use remuda_core::proxy::ProxyProtocol;

use super::app::{CALL, Call, content};
use super::world::World;
use crate::chunked::{End, read};
use crate::head::{Reading, is_token, number, split_at_first, trim};
use crate::proxy;

pub(crate) fn check(world: &World, calls: &[Call], reason: CloseReason) {
    let requests = requests(world);
    assert!(calls.len() <= requests.len(), "{} requests, {} calls", requests.len(), calls.len());
    for (call, request) in calls.iter().zip(&requests) {
        request.was_seen_by(call, &world.arrived);
    }
    let sent = world.pipe.0.borrow().outgoing.clone();
    let mut rest = &sent[..];
    let mut answered = 0;
    while !rest.is_empty() {
        let Some(response) = Response::read(rest) else {
            assert!(may_cut(reason), "{reason:?} within a head: {:?}", text(rest));
            return;
        };
        rest = &rest[response.len..];
        if response.is_interim() {
            // An interim response 100 may come before the application is called, to a client whose
            // body is waited for.
            let is_asked_for = answered < requests.len() && !response.announces_close;
            assert!(is_asked_for, "an interim response of its own");
            continue;
        }
        let request = requests.get(answered).filter(|_| answered < calls.len());
        let whole = response.take_content(&mut rest, request, calls.get(answered), answered);
        answered += 1;
        assert!(whole || may_cut(reason), "{reason:?} within the response {answered}");
        if response.announces_close || response.status == 101 {
            assert!(rest.is_empty(), "{:?} after the end", text(rest));
            assert!(calls.len() <= answered, "{} requests were read, but {answered} answered", calls.len());
            return;
        }
        if !whole {
            // Responses to later requests may have been lost with the rest of this one.
            return;
        }
    }
    assert!(answered <= calls.len(), "more responses than requests");
    let unanswered = answered < calls.len();
    assert!(!unanswered || may_cut(reason), "{reason:?}, but a request is unanswered");
    // The rest of a body that exceeds the limit for discarding may end the connection after a
    // response that did not announce it.
    let all_read = calls.last().is_none_or(|call| call.ended);
    let announced = reason == CloseReason::Drained || (reason == CloseReason::Finished && all_read);
    assert!(!announced, "{reason:?}, but no response announces close");
}

/// Whether a connection that ended for `reason` may leave a response unfinished.
fn may_cut(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::TransportFailed
            | CloseReason::PeerAborted
            | CloseReason::TimedOut(_)
            | CloseReason::DeadlineCut
            | CloseReason::ApplicationFailed
            | CloseReason::Refused
            | CloseReason::UpgradeEnded
    )
}

/// A request as parsed from the bytes.
struct Request {
    method: Vec<u8>,
    target: Vec<u8>,
    version: Version,
    keep_alive: bool,
    body: Vec<u8>,
    /// All of it has arrived.
    complete: bool,
    /// Where the bytes after it begin.
    end: usize,
}

/// The requests that arrived, up to the first malformed one.
fn requests(world: &World) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    let mut at = 0;
    // Requests begin after the PROXY header, if the settings expect one.
    if world.limits.proxies.proxy_protocol != ProxyProtocol::Off {
        match proxy::read(&world.arrived, ProxyProtocol::Auto) {
            proxy::Read::Header(len, _) => at = len,
            proxy::Read::Open | proxy::Read::None => return requests,
        }
    }
    // No request can be found after a body that is incomplete or malformed.
    while requests.last().is_none_or(|last| last.complete)
        && let Some(Reading { lines, meaning, faults }) = Reading::of(&world.arrived[at..], &world.limits)
        && faults.0.is_empty()
    {
        let rest = &world.arrived[at + meaning.len..];
        let (body, len, complete) = match meaning.framing {
            BodyFraming::Length(len) => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                let here = len.min(rest.len());
                (rest[..here].to_vec(), here, here == len)
            }
            BodyFraming::Chunked => {
                let decoded = read(rest);
                match decoded.end {
                    End::Done(len) => (decoded.body, len, true),
                    End::Open | End::Malformed => (decoded.body, rest.len(), false),
                }
            }
        };
        let mut words = lines[0].split(|byte| *byte == b' ').map(<[u8]>::to_vec);
        at += meaning.len + len;
        requests.push(Request {
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            version: if lines[0].ends_with(b"1.0") { Version::Http10 } else { Version::Http11 },
            keep_alive: meaning.keep_alive,
            body,
            complete,
            end: at,
        });
    }
    requests
}

impl Request {
    fn was_seen_by(&self, call: &Call, arrived: &[u8]) {
        let target = std::str::from_utf8(&self.target).expect("it was accepted");
        // A future gets the target as a [`Uri`], which adds a path to a target without one.
        let is_target =
            call.target == target || target.parse::<Uri>().is_ok_and(|uri| uri.to_string() == call.target);
        assert!(call.method.as_bytes() == self.method && is_target, "{call:?} is not {target:?}");
        assert!(self.body.starts_with(&call.body), "not the body of {:?}", text(&self.target));
        assert!(!call.ended || (self.complete && self.body == call.body), "a short success");
        let raw = call.upgraded.as_deref().unwrap_or_default();
        assert!(arrived[self.end..].starts_with(raw), "not what follows an upgrade");
    }
}

struct Response {
    /// The length of its head.
    len: usize,
    status: u16,
    call: Option<u64>,
    content_length: Option<u64>,
    chunked: bool,
    announces_close: bool,
}

impl Response {
    /// The head at the beginning of `sent`. None if it is incomplete (RFC 9112 §4, §5).
    fn read(sent: &[u8]) -> Option<Self> {
        let len = sent.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&sent[..len - 4]).expect("heads are text here");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
        assert!(status.len() >= 4 && status.as_bytes()[3] == b' ', "{status:?}");
        let mut response = Self {
            len,
            status: status[..3].parse().expect("three digits"),
            call: None,
            content_length: None,
            chunked: false,
            announces_close: false,
        };
        let mut dates = 0;
        for line in lines {
            let (name, value) = split_at_first(line.as_bytes(), b':').expect("a field");
            assert!(is_token(name) && !value.iter().any(u8::is_ascii_control), "{line:?}");
            let (name, value) = (name.to_ascii_lowercase(), trim(value));
            match &name[..] {
                b"content-length" => {
                    let before = response.content_length.replace(number(value).expect("a number"));
                    assert_eq!(before, None, "two lengths");
                }
                b"transfer-encoding" => {
                    assert_eq!(value, b"chunked");
                    assert!(!std::mem::replace(&mut response.chunked, true), "two codings");
                }
                b"connection" => response.announces_close |= value == b"close",
                b"date" => dates += 1,
                b"keep-alive" | b"proxy-connection" | b"te" => {
                    panic!("{line:?} may not be set by applications")
                }
                name if name.eq_ignore_ascii_case(CALL.as_bytes()) => response.call = number(value),
                _ => {}
            }
        }
        assert!(response.content_length.is_none() || !response.chunked, "a length and a coding");
        assert!(response.is_interim() || response.status == 101 || dates == 1, "{dates} dates");
        let unframed = response.content_length.is_none() && !response.chunked;
        // RFC 9110 §8.6, RFC 9112 §6.1.
        assert!(unframed || !(response.status < 200 || response.status == 204), "framing in {head:?}");
        Some(response)
    }

    fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Removes the content of the response `number` from the beginning of `sent`, and returns
    /// whether all of it is there. `request` and `call` are given if the application was called.
    fn take_content(
        &self,
        sent: &mut &[u8],
        request: Option<&Request>,
        call: Option<&Call>,
        number: usize,
    ) -> bool {
        let (Some(request), Some(call)) = (request, call) else {
            // The machine's own response: nothing follows it, and the request may not be known.
            assert!(self.announces_close && self.call.is_none(), "an answer to nothing: {}", self.status);
            let len = self.content_length.expect("it has a length");
            let all = sent.is_empty() || sent.len() as u64 == len;
            assert!(sent.len() as u64 <= len);
            *sent = &[];
            return all;
        };
        assert!(self.call.is_none_or(|call| call == number as u64), "the response to another request");
        let is_1_0 = request.version == Version::Http10;
        assert!(!self.chunked || !is_1_0, "chunked for HTTP/1.0");
        assert!(self.announces_close || request.keep_alive || self.status == 101, "it was asked to close");
        // RFC 9112 §6.3.
        let none = request.method == b"HEAD" || matches!(self.status, 204 | 304);
        let (body, whole) = if none {
            (Vec::new(), true)
        } else if self.chunked {
            let decoded = read(sent);
            let len = match decoded.end {
                End::Done(len) => len,
                End::Open => sent.len(),
                End::Malformed => panic!("malformed chunks: {:?}", text(sent)),
            };
            *sent = &sent[len..];
            (decoded.body, matches!(decoded.end, End::Done(_)))
        } else if let Some(len) = self.content_length {
            let here = usize::try_from(len).unwrap_or(usize::MAX).min(sent.len());
            let (body, rest) = sent.split_at(here);
            *sent = rest;
            (body.to_vec(), here as u64 == len)
        } else {
            assert!(self.announces_close || self.status == 101, "content without an end");
            (std::mem::take(sent).to_vec(), true)
        };
        if self.call.is_some() {
            assert!(body.len() <= call.written);
            assert!(body.iter().enumerate().all(|(at, byte)| *byte == content(number, at)), "other content");
        }
        whole
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}
