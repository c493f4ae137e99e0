//! The demo as a blocking application: plain functions that may block.
//!
//! Field names are in lower case, as in [`http`], so that both kinds of handler send the same
//! bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use remuda_core::app::{AppError, BodyReader, Handler, Responder};
use remuda_core::http1::{Head, ResponseHead};

use super::Demo;
use super::request::{Refusal, Request, UPGRADE_WANTED, preferred, required_field};

impl Handler for Demo {
    fn call(&self, head: &Head<'_>, body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
        match route(head) {
            Ok(Request::Hello) => out.send(text(200), Bytes::from_static(b"Hello, World!"))?,
            Ok(Request::Echo) => echo(head, body, out)?,
            Ok(Request::Sleep(time) | Request::Block(time)) => pause(time, out)?,
            Ok(Request::Stream { chunks, size, pause }) => stream(chunks, size, pause, out)?,
            Ok(Request::Bytes(n)) => bytes(n, out)?,
            Ok(Request::Events) => events(head, out)?,
            Ok(Request::Info) => {
                let info = self.info(&out.connection(), head.client())?;
                out.send(ResponseHead::new(200).field("content-type", "application/json"), info)?;
            }
            Ok(Request::Headers) => headers(head, out)?,
            Ok(Request::Status { code, body }) => status(code, body, out)?,
            Ok(Request::Upgrade) => upgrade(head, out)?,
            Ok(Request::Options { allow }) => {
                out.send(ResponseHead::new(200).field("allow", allow), Bytes::new())?;
            }
            Err(refusal) => refuse(&refusal, out)?,
        }
        Ok(())
    }

    fn is_short(&self, head: &Head<'_>) -> bool {
        route(head).as_ref().map_or(true, Request::is_short)
    }

    fn streams_body(&self, head: &Head<'_>) -> bool {
        route(head).as_ref().is_ok_and(Request::streams_body)
    }
}

fn route(head: &Head<'_>) -> Result<Request, Refusal> {
    Request::of(head.method(), head.path(), head.query().unwrap_or_default())
}

/// The head of a text response.
fn text(status: u16) -> ResponseHead {
    ResponseHead::new(status).field("content-type", "text/plain")
}

fn refuse(refusal: &Refusal, out: Responder<'_>) -> io::Result<()> {
    let head = match refusal {
        Refusal::Method { allow } => text(refusal.status()).field("allow", allow),
        _ => text(refusal.status()),
    };
    out.send(head, format!("{refusal}\n"))
}

/// Waits for the first bytes before it sends the head: a client that expects a 100 takes a final
/// response as a reason to withhold its body (RFC 9110 §10.1.1).
fn echo(head: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>) -> io::Result<()> {
    let mut buf = [0; 16 * 1024];
    let mut n = read(&mut body, &mut buf)?;
    let mut response = ResponseHead::new(200);
    if let Some(kind) = head.field("content-type") {
        response = response.field("content-type", kind);
    }
    let mut out = out.stream(response)?;
    while n > 0 {
        out.write_all(&buf[..n])?;
        out.flush()?;
        n = read(&mut body, &mut buf)?;
    }
    Ok(())
}

/// Serves both `/sleep` and `/block`, because a plain function may block its thread.
fn pause(time: Duration, out: Responder<'_>) -> io::Result<()> {
    thread::sleep(time);
    out.send(text(200), format!("{} ms\n", time.as_millis()))
}

fn stream(chunks: u64, size: u64, pause: Duration, out: Responder<'_>) -> io::Result<()> {
    let mut out = out.stream(text(200))?;
    for chunk in 0..chunks {
        if chunk > 0 && !pause.is_zero() {
            thread::sleep(pause);
        }
        fill(&mut out, size)?;
        out.flush()?;
    }
    Ok(())
}

fn bytes(n: u64, out: Responder<'_>) -> io::Result<()> {
    let head = ResponseHead::new(200)
        .field("content-type", "application/octet-stream")
        .field("content-length", n.to_string());
    fill(&mut out.stream(head)?, n)
}

/// A response without end, which ends itself when the worker drains.
fn events(head: &Head<'_>, out: Responder<'_>) -> io::Result<()> {
    let drain = out.drain();
    let response =
        ResponseHead::new(200).field("content-type", "text/event-stream").field("cache-control", "no-cache");
    let mut out = out.stream(response)?;
    if head.method() == "HEAD" {
        return Ok(());
    }
    for n in 1_u64.. {
        out.write_all(format!("data: {n}\n\n").as_bytes())?;
        out.flush()?;
        if drain.wait(Duration::from_secs(1)) {
            break;
        }
    }
    Ok(())
}

fn headers(head: &Head<'_>, out: Responder<'_>) -> io::Result<()> {
    let mut lines = Vec::new();
    for (name, value) in head.fields() {
        lines.extend_from_slice(name.to_ascii_lowercase().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value);
        lines.push(b'\n');
    }
    out.send(text(200), lines)
}

fn status(code: u16, body: bool, out: Responder<'_>) -> io::Result<()> {
    let head = if body { text(code) } else { ResponseHead::new(code) };
    let head = required_field(code).into_iter().fold(head, |head, (name, value)| head.field(name, value));
    let content = if body { format!("content of a {code}\n") } else { String::new() };
    out.send(head, content)
}

fn upgrade(head: &Head<'_>, out: Responder<'_>) -> io::Result<()> {
    let protocol = head.field("Upgrade").and_then(preferred).filter(|_| head.offers_upgrade());
    let Some(protocol) = protocol else {
        return out.send(text(426).field("Upgrade", "echo"), UPGRADE_WANTED);
    };
    let drain = out.drain();
    let mut socket = out.upgrade(ResponseHead::new(101).field("Upgrade", protocol))?;
    let mut buf = [0; 16 * 1024];
    while !drain.is_set() {
        match socket.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => {
                socket.write_all(&buf[..n])?;
                socket.flush()?;
            }
            // The drain interrupts a read; the loop condition checks for it.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads once, and retries after interrupts.
fn read(from: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buf) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Writes `n` bytes.
fn fill(out: &mut impl Write, mut n: u64) -> io::Result<()> {
    while n > 0 {
        let part = n.min(super::FILLING.len() as u64);
        out.write_all(&super::FILLING[..part as usize])?;
        n -= part;
    }
    Ok(())
}
