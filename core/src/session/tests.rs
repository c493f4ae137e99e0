//! The machine with an application, over whole lives of connections in virtual time.

use std::io::{self, Read, Write};

use bytes::Bytes;

use crate::app::{AppError, BodyReader, Handler, Responder};
use crate::http1::{Head, ResponseHead};
use crate::testing::{Bench, Log};

mod activity;
mod budgets;
mod choice;
mod corpus;
mod deadlines;
mod drain;
mod ends;
mod futures;
mod handlers;
mod handoff;
mod interim;
mod look;
mod observer;
mod overtime;
mod pace;
mod placement;
mod policies;
mod proxy_trust;
mod quota;
mod rescue;
mod splits;
mod strict;

/// The application of these tests: the target decides what it does, and the log records what it
/// saw.
#[derive(Clone, Debug, Default)]
struct Tester {
    log: Log,
    /// Its handlers are short.
    short: bool,
    /// It streams request bodies.
    streams: bool,
}

impl Handler for Tester {
    fn call(&self, head: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
        let fields: Vec<_> =
            head.fields().map(|(name, value)| (name, value.escape_ascii().to_string())).collect();
        let (method, target, version) = (head.method(), head.target(), head.version());
        self.log(format!("{method} {target} {version:?} {fields:?}"));
        let number = head.query().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        let ok = ResponseHead::new(200);
        match head.path() {
            "/" => out.send(ok, "hello")?,
            "/sized" => out.send(ok, vec![b'x'; number])?,
            "/close" => out.send(ok.field("Connection", "close"), "bye")?,
            "/echo" => {
                let mut all = Vec::new();
                let read = body.read_to_end(&mut all);
                self.log(format!("body {} {:?}", all.escape_ascii(), read.as_ref().map_err(io::Error::kind)));
                read?;
                out.send(ok, all)?;
            }
            "/count" => {
                let (mut buffer, mut count) = ([0; 4096], 0);
                loop {
                    match body.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(n) => count += n,
                        Err(error) => {
                            self.log(format!("{count} bytes, then {:?}", error.kind()));
                            return Err(error.into());
                        }
                    }
                }
                out.send(ok, format!("{count} bytes"))?;
            }
            // Answers while it reads, a byte at a time.
            "/pipe" => {
                let mut out = out.stream(ok)?;
                let mut buffer = [0];
                while body.read(&mut buffer)? > 0 {
                    out.write_all(&buffer)?;
                }
            }
            "/stream" => {
                let mut out = out.stream(ok)?;
                for n in 0..number {
                    writeln!(out, "line {n}")?;
                }
            }
            "/flood" => {
                let mut out = out.stream(ok)?;
                for _ in 0..number {
                    let written = out.write_all(&[b'f'; 1000]);
                    if let Err(error) = written {
                        self.log(format!("write failed: {:?}", error.kind()));
                        return Err(error.into());
                    }
                }
            }
            "/nothing" => {}
            "/fail" => return Err(AppError::msg("out of paper")),
            "/panic" => panic!("on purpose"),
            "/late-fail" | "/late-panic" => {
                out.stream(ok)?.write_all(b"part")?;
                assert!(head.path() != "/late-panic", "on purpose");
                return Err(AppError::msg("out of paper"));
            }
            "/short-body" | "/long-body" | "/caught-long-body" => {
                let mut out = out.stream(ok.field("Content-Length", "4"))?;
                let text: &[u8] = if head.path() == "/short-body" { b"abc" } else { b"abcde" };
                let written = out.write_all(text);
                self.log(format!("{:?}", written.as_ref().map_err(io::Error::kind)));
                if head.path() != "/caught-long-body" {
                    written?;
                } else {
                    self.log(format!("{:?}", out.write(b"x").map_err(|error| error.kind())));
                }
            }
            "/hints" => {
                for n in 0..number {
                    out.interim(&ResponseHead::new(103).field("Link", format!("</{n}.css>; rel=preload")))?;
                }
                out.send(ok, "hello")?;
            }
            // The announced length differs from the length sent.
            "/sent-length" => out.send(ok.field("Content-Length", number.to_string()), "abcd")?,
            // Answers with the trailers of the request.
            "/trailers" => {
                assert!(body.trailers().is_empty(), "not before the end");
                body.read_to_end(&mut Vec::new())?;
                let trailers = body.trailers();
                let mut out = out.stream(ok.field("Trailer", "X-Sum"))?;
                out.write_all(b"done")?;
                out.finish(trailers);
            }
            "/bad-field" => out.send(ok.field("X", "a\r\nb"), "never")?,
            "/interim" => out.send(ResponseHead::new(100), "")?,
            "/no-content" => out.send(ResponseHead::new(204), "")?,
            "/upgrade" => {
                let mut io = out.upgrade(ResponseHead::new(101).field("Upgrade", "echo"))?;
                let mut buffer = [0; 64];
                loop {
                    match io.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(n) => io.write_all(&buffer[..n])?,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                            self.log("interrupted".to_owned());
                            io.write_all(b"goodbye")?;
                        }
                        Err(error) => {
                            self.log(format!("{:?}", error.kind()));
                            return Err(error.into());
                        }
                    }
                }
            }
            // Writes a line for every byte that arrives, until the worker drains (D14).
            "/events" => {
                let drain = out.drain();
                let mut out = out.stream(ok)?;
                let mut buffer = [0; 1];
                while !drain.is_set() && body.read(&mut buffer)? > 0 {
                    out.write_all(b"event\n")?;
                    out.flush()?;
                }
            }
            _ => out.send(ResponseHead::new(404), Bytes::new())?,
        }
        Ok(())
    }

    fn is_short(&self, _: &Head<'_>) -> bool {
        self.short
    }

    fn streams_body(&self, _: &Head<'_>) -> bool {
        self.streams
    }
}

impl Tester {
    fn log(&self, line: String) {
        self.log.lock().expect("not poisoned").push(line);
    }
}

/// A bench whose handlers may block.
fn bench() -> Bench {
    bench_of(false)
}

/// A bench whose handlers run inline.
fn short_bench() -> Bench {
    bench_of(true)
}

fn bench_of(short: bool) -> Bench {
    let tester = Tester { short, ..Tester::default() };
    let log = tester.log.clone();
    Bench { log, ..Bench::new(tester) }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn upgrade() -> String {
    "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n".to_owned()
}

fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// How often `text` contains `part`.
fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

const CLOSE: &str = "Connection: close\r\n";
