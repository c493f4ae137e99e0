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

/// A client with an unanswered request, and its ticket.
fn asking(dir: &TempDir, socket: &mut ControlSocket) -> (UnixStream, Ticket) {
    let mut client = connect(dir);
    client.write_all(STATUS).unwrap();
    let asked = socket.advance(NOW);
    assert_eq!(asked.len(), 1);
    (client, asked[0].0)
}

#[test]
fn a_client_that_does_not_read_its_answer_is_dropped() {
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
fn an_answer_that_is_too_long_is_dropped() {
    let (dir, mut socket) = listening();
    let (_client, ticket) = asking(&dir, &mut socket);
    socket.answer(ticket, [json!("x".repeat(OUTPUT_MAX))], NOW);
    socket.advance(NOW);
    assert_eq!(socket.clients.len(), 0);
}

/// The arbiter was frozen or busy for longer than the time of a line.
#[test]
fn d21_a_line_completed_in_time_is_read_before_its_deadline_counts() {
    let (dir, mut socket) = listening();
    let (begun, rest) = STATUS.split_at(8);
    let mut client = connect(&dir);
    client.write_all(begun).unwrap();
    assert_eq!(socket.advance(NOW), []);
    client.write_all(rest).unwrap();
    let mut late = connect(&dir);
    late.write_all(STATUS).unwrap();
    assert_eq!(socket.advance(NOW + PATIENCE + PATIENCE).len(), 2);
}

#[test]
fn silent_clients_are_dropped_and_waiting_clients_kept() {
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
fn a_slow_line_has_the_time_of_any_line() {
    let (dir, mut socket) = listening();
    let mut client = connect(&dir);
    for second in 0..10 {
        client.write_all(b" ").unwrap();
        assert_eq!(socket.advance(NOW + Duration::from_secs(second)), []);
        assert_eq!((socket.clients.len(), socket.deadline()), (1, Some(NOW + PATIENCE)));
    }
    client.write_all(b" ").unwrap();
    socket.advance(NOW + PATIENCE);
    assert_eq!(socket.clients.len(), 0);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.contains("no end of line"), "{text}");
}

#[test]
fn a_line_that_is_complete_at_its_deadline_is_answered() {
    let (dir, mut socket) = listening();
    let mut client = connect(&dir);
    client.write_all(&STATUS[..9]).unwrap();
    socket.advance(NOW);
    client.write_all(&STATUS[9..]).unwrap();
    assert_eq!(socket.advance(NOW + PATIENCE * 2).len(), 1);
}

#[test]
fn a_further_client_displaces_the_one_that_needs_its_place_least() {
    let (dir, mut socket) = listening();
    let (waiting, asked) = asking(&dir, &mut socket);
    let (reader, answered) = asking(&dir, &mut socket);
    socket.answer(answered, [json!("x".repeat(OUTPUT_MAX / 2))], NOW);
    let silent: Vec<_> = (2..CLIENTS).map(|_| connect(&dir)).collect();
    assert_eq!(socket.advance(NOW), []);
    assert_eq!(socket.clients.len(), CLIENTS);
    let mut others = Vec::new();
    // Silent clients are dropped first, the oldest first.
    for mut next in silent {
        others.push(asking(&dir, &mut socket));
        assert_eq!(socket.clients.len(), CLIENTS);
        let mut text = String::new();
        next.read_to_string(&mut text).unwrap();
        assert!(text.contains("another one has connected"), "{text}");
    }
    // Then the client that does not read its answer.
    others.push(asking(&dir, &mut socket));
    assert!(socket.clients.iter().all(|client| client.asked.is_some()));
    // If all wait for answers, the oldest is dropped.
    others.push(asking(&dir, &mut socket));
    assert!(socket.clients.iter().all(|client| client.asked != Some(asked)));
    drop((waiting, reader));
}

#[test]
fn requests_of_all_clients_are_read_in_one_turn() {
    let (dir, mut socket) = listening();
    let connect_all = || (0..CLIENTS).map(|_| connect(&dir)).collect::<Vec<_>>();
    let _silent = connect_all();
    socket.advance(NOW);
    let mut asking = connect_all();
    asking.iter_mut().for_each(|client| client.write_all(STATUS).unwrap());
    assert_eq!(socket.advance(NOW).len(), CLIENTS);
}

#[test]
fn a_client_that_leaves_before_its_answer_is_forgotten() {
    let (dir, mut socket) = listening();
    let (client, ticket) = asking(&dir, &mut socket);
    // A client that ends its sending side has not left.
    client.shutdown(std::net::Shutdown::Write).unwrap();
    socket.advance(NOW);
    assert_eq!(socket.clients.len(), 1);
    drop(client);
    socket.advance(NOW);
    assert_eq!(socket.clients.len(), 0);
    socket.answer(ticket, [json!(1)], NOW);
}

#[test]
fn a_second_request_is_due_once_the_first_is_answered() {
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
fn the_end_removes_the_file() {
    let (dir, mut socket) = listening();
    socket.end();
    assert!(!dir.path().join("socket").exists());
}
