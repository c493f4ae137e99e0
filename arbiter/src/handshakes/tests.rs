use std::net::TcpListener;

use super::*;

const NUMBER: u32 = 7;

fn message(kind: u16, number: u32, body: &[u8]) -> Vec<u8> {
    let len = (HEADER + body.len()) as u32;
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([2, 0]);
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The kernel's message about a socket in `state`, of a client with this port at `server`.
fn socket(state: u8, server: &str, client: u16) -> Vec<u8> {
    let server: SocketAddr = server.parse().unwrap();
    let mut body = vec![0; 72];
    body[1] = state;
    body[4..6].copy_from_slice(&server.port().to_be_bytes());
    body[6..8].copy_from_slice(&client.to_be_bytes());
    match server.ip() {
        IpAddr::V4(ip) => body[8..12].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => body[8..24].copy_from_slice(&ip.octets()),
    }
    message(BY_FAMILY, NUMBER, &body)
}

fn clients(open: &[Handshake]) -> Vec<u16> {
    open.iter().map(|open| u16::from_be_bytes([open[2], open[3]])).collect()
}

#[test]
fn an_answer_of_several_parts_is_read_to_its_end() {
    let addr = "10.0.0.1:80".parse().unwrap();
    let mut open = Vec::new();
    let first = [socket(3, "10.0.0.1:80", 1), socket(3, "10.0.0.1:80", 2)].concat();
    assert!(!read(&first, addr, NUMBER, &mut open).unwrap());
    let last = [socket(3, "10.0.0.1:80", 3), message(DONE, NUMBER, &[0; 4])].concat();
    assert!(read(&last, addr, NUMBER, &mut open).unwrap());
    assert_eq!(clients(&open), [1, 2, 3]);
}

#[test]
fn only_open_handshakes_of_the_listener_are_counted() {
    let all = [
        socket(3, "10.0.0.1:80", 1),
        socket(1, "10.0.0.1:80", 2),
        socket(3, "10.0.0.2:80", 3),
        socket(3, "10.0.0.1:81", 4),
        message(BY_FAMILY, NUMBER - 1, &socket(3, "10.0.0.1:80", 5)[HEADER..]),
        message(BY_FAMILY, NUMBER, &[0, 3, 0, 0]),
    ]
    .concat();
    for (addr, expected) in [("10.0.0.1:80", &[1][..]), ("0.0.0.0:80", &[1, 3]), ("[::]:80", &[1, 3])] {
        let mut open = Vec::new();
        assert!(!read(&all, addr.parse().unwrap(), NUMBER, &mut open).unwrap());
        assert_eq!(clients(&open), expected, "{addr}");
    }
    let mut open = Vec::new();
    let six = [socket(3, "[fd00::1]:80", 1), socket(3, "[fd00::2]:80", 2)].concat();
    assert!(!read(&six, "[fd00::2]:80".parse().unwrap(), NUMBER, &mut open).unwrap());
    assert_eq!(clients(&open), [2]);
}

#[test]
fn an_error_and_a_truncated_message_are_errors() {
    let addr = "10.0.0.1:80".parse().unwrap();
    let error = message(ERROR, NUMBER, &(-2_i32).to_ne_bytes());
    let answer = read(&error, addr, NUMBER, &mut Vec::new());
    assert_eq!(answer.unwrap_err().raw_os_error(), Some(2));
    let whole = socket(3, "10.0.0.1:80", 1);
    for len in HEADER..whole.len() {
        let answer = read(&whole[..len], addr, NUMBER, &mut Vec::new());
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::InvalidData, "{len} bytes");
    }
    // A length of zero would make an endless loop.
    assert!(read(&[0; HEADER], addr, NUMBER, &mut Vec::new()).is_err());
}

#[test]
fn the_kernel_answers_more_than_once() {
    let listeners = ["127.0.0.1:0", "[::1]:0"].map(|addr| TcpListener::bind(addr).unwrap());
    let mut handshakes = Handshakes::new().unwrap();
    for listener in listeners.iter().chain(&listeners) {
        let addr = listener.local_addr().unwrap();
        assert_eq!(handshakes.open_at(addr).unwrap(), Vec::<Handshake>::new());
    }
}
