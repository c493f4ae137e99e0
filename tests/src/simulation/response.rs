//! Reads responses as a strict client does.

use remuda_core::time::Time;

use super::script::SentRequest;

/// A response, as far as it was received.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) announced: bool,
    pub(super) body: Vec<u8>,
    pub(super) complete: bool,
    /// It ends with the connection.
    pub(super) until_close: bool,
    /// When its last byte so far was read.
    pub(super) at: Time,
}

/// The state of the parser, with bytes that are not parsed yet.
#[derive(Debug, Default)]
pub(super) struct Parser {
    pending: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Head,
    Length(usize),
    ChunkSize,
    Chunk(usize),
    UntilClose,
}

impl Parser {
    /// Parses `bytes`. `request` gives the requests in order.
    pub(super) fn take<'a>(
        &mut self,
        bytes: &[u8],
        answers: &mut Vec<Answer>,
        now: Time,
        request: impl Fn(usize) -> Option<&'a SentRequest>,
    ) -> Result<(), String> {
        self.pending.extend_from_slice(bytes);
        loop {
            match self.state {
                State::Head => {
                    let Some(end) = find(&self.pending, b"\r\n\r\n") else { return Ok(()) };
                    let head = String::from_utf8_lossy(&self.pending[..end]).into_owned();
                    self.pending.drain(..end + 4);
                    self.begin(&head, answers, now, request(complete(answers)))?;
                }
                State::Length(left) | State::Chunk(left) => {
                    let n = left.min(self.pending.len());
                    let answer = answers.last_mut().ok_or("a body without a head")?;
                    answer.body.extend(self.pending.drain(..n));
                    answer.at = now;
                    let chunk = matches!(self.state, State::Chunk(_));
                    match (left - n, chunk) {
                        (0, false) => {
                            answer.complete = true;
                            self.state = State::Head;
                        }
                        (0, true) if self.pending.len() >= 2 => {
                            if !self.pending.starts_with(b"\r\n") {
                                return Err("a chunk does not end".to_owned());
                            }
                            self.pending.drain(..2);
                            self.state = State::ChunkSize;
                        }
                        (left, chunk) => {
                            self.state = if chunk { State::Chunk(left) } else { State::Length(left) };
                            return Ok(());
                        }
                    }
                }
                State::ChunkSize => {
                    let Some(end) = find(&self.pending, b"\r\n") else { return Ok(()) };
                    let text = String::from_utf8_lossy(&self.pending[..end]).into_owned();
                    let size =
                        usize::from_str_radix(&text, 16).map_err(|_| format!("chunk size {text:?}"))?;
                    if size > 0 {
                        self.pending.drain(..end + 2);
                        self.state = State::Chunk(size);
                    } else if self.pending.len() >= end + 4 {
                        self.pending.drain(..end + 4);
                        let answer = answers.last_mut().ok_or("a body without a head")?;
                        (answer.complete, answer.at) = (true, now);
                        self.state = State::Head;
                    } else {
                        return Ok(());
                    }
                }
                State::UntilClose => {
                    let answer = answers.last_mut().ok_or("a body without a head")?;
                    answer.body.append(&mut self.pending);
                    answer.at = now;
                    return Ok(());
                }
            }
        }
    }

    /// Handles the end of the connection, which may be a reset.
    pub(super) fn end(&mut self, answers: &mut [Answer], now: Time, reset: bool) {
        if self.state == State::UntilClose
            && !reset
            && let Some(answer) = answers.last_mut()
        {
            (answer.complete, answer.at) = (true, now);
            self.state = State::Head;
        }
    }

    fn begin(
        &mut self,
        head: &str,
        answers: &mut Vec<Answer>,
        now: Time,
        request: Option<&SentRequest>,
    ) -> Result<(), String> {
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
        let status = status.ok_or_else(|| format!("a response begins with {head:?}"))?;
        if status == 100 {
            return Ok(());
        }
        request.ok_or_else(|| format!("a response to nothing: {head:?}"))?;
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let announced = field("connection").or_else(|| field("Connection")) == Some("close");
        let length = field("content-length").or_else(|| field("Content-Length"));
        let chunked = field("transfer-encoding").or_else(|| field("Transfer-Encoding")).is_some();
        self.state = match length {
            Some(length) => State::Length(length.parse().map_err(|_| format!("length {length:?}"))?),
            None if chunked => State::ChunkSize,
            None => State::UntilClose,
        };
        answers.push(Answer {
            status,
            announced,
            body: Vec::new(),
            complete: false,
            until_close: self.state == State::UntilClose,
            at: now,
        });
        Ok(())
    }
}

fn complete(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.complete).count()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
