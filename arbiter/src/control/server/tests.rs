use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::json;
use tempfile::TempDir;

use super::*;

const NOW: Time = Time::from_nanos(1_000_000_000);
const STATUS: &[u8] = b"{\"v\":1,\"command\":\"status\"}\n";

fn listening() -> (TempDir, ControlSocket) {
    let dir = TempDir::new().unwrap();
    let socket = ControlSocket::bind(&dir.path().join("socket"), &mut Vec::new()).unwrap();
    (dir, socket)
}

fn connect(dir: &TempDir) -> UnixStream {
    let stream = UnixStream::connect(dir.path().join("socket")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client that has asked for something, and its ticket.
fn asking(dir: &TempDir, socket: &mut ControlSocket) -> (UnixStream, Ticket) {
    let mut client = connect(dir);
    client.write_all(STATUS).unwrap();
    let asked = socket.advance(NOW);
    assert_eq!(asked.len(), 1);
    (client, asked[0].0)
}

#[test]
fn who_does_not_take_its_answer_is_dropped_and_asks_nothing_more_until_then() {
    let (dir, mut socket) = listening();
    let (mut client, ticket) = asking(&dir, &mut socket);
    socket.answer(ticket, [json!("x".repeat(OUTPUT_MAX / 2))], NOW);
    client.write_all(STATUS).unwrap();
    assert_eq!(socket.advance(NOW), [], "one answer at a time");
    assert_eq!(socket.deadline(), Some(NOW + PATIENCE));
    socket.advance(NOW + PATIENCE);
    assert_eq!((socket.clients.len(), socket.deadline()), (0, None));
}

#[test]
fn an_answer_that_is_too_long_is_not_kept() {
    let (dir, mut socket) = listening();
    let (_client, ticket) = asking(&dir, &mut socket);
    socket.answer(ticket, [json!("x".repeat(OUTPUT_MAX))], NOW);
    socket.advance(NOW);
    assert_eq!(socket.clients.len(), 0);
}

#[test]
fn who_says_nothing_or_half_a_line_is_dropped_and_who_waits_is_not() {
    let (dir, mut socket) = listening();
    let (_waiting, _) = asking(&dir, &mut socket);
    let mut silent = connect(&dir);
    let mut half = connect(&dir);
    half.write_all(b"{\"v\":1").unwrap();
    assert_eq!(socket.advance(NOW), []);
    socket.advance(NOW + (PATIENCE - Duration::from_millis(1)));
    assert_eq!(socket.clients.len(), 3);
    socket.advance(NOW + PATIENCE);
    assert_eq!((socket.clients.len(), socket.deadline()), (1, None));
    let mut text = String::new();
    half.read_to_string(&mut text).unwrap();
    assert!(text.contains("no end of line"), "{text}");
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn who_leaves_before_its_answer_is_forgotten() {
    let (dir, mut socket) = listening();
    let (client, ticket) = asking(&dir, &mut socket);
    // Having nothing more to say is not leaving.
    client.shutdown(std::net::Shutdown::Write).unwrap();
    socket.advance(NOW);
    assert_eq!(socket.clients.len(), 1);
    drop(client);
    socket.advance(NOW);
    assert_eq!(socket.clients.len(), 0);
    socket.answer(ticket, [json!(1)], NOW);
}

#[test]
fn what_came_with_the_first_request_is_due_once_that_is_answered() {
    let (dir, mut socket) = listening();
    let mut client = connect(&dir);
    client.write_all(&[STATUS, STATUS].concat()).unwrap();
    let asked = socket.advance(NOW);
    assert_eq!((asked.len(), socket.deadline()), (1, None));
    socket.answer(asked[0].0, [json!(1)], NOW);
    assert_eq!(socket.deadline(), Some(Time::ZERO), "nothing will arrive that says so");
    let again = socket.advance(NOW);
    assert!(again.len() == 1 && again[0].0 != asked[0].0, "{again:?}");
}

#[test]
fn at_the_end_the_file_is_gone() {
    let (dir, mut socket) = listening();
    socket.end();
    assert!(!dir.path().join("socket").exists());
}
