//! A client that has one request open on each of its connections at all times.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The request, with as many fields as command line clients send.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: compare/1.0\r\nAccept: */*\r\n\r\n";

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    connections: Vec<TcpStream>,
    /// A buffer of exactly one response, whose length never changes.
    response: Vec<u8>,
}

impl Client {
    /// Connects `n` times and sends a request on each connection.
    ///
    /// # Errors
    ///
    /// The server does not listen, or its answer is not the expected response.
    pub(crate) fn connect(address: SocketAddr, n: usize) -> io::Result<Self> {
        let mut client = Self { connections: Vec::with_capacity(n), response: Vec::new() };
        for _ in 0..n {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(REQUEST)?;
            client.response = first_response(&mut stream)?;
            client.connections.push(stream);
        }
        Ok(client)
    }

    /// Sends `n` requests, rounded down to a multiple of the connections.
    pub(crate) fn ask(&mut self, n: usize) -> io::Result<()> {
        for _ in 0..n / self.connections.len() {
            for stream in &mut self.connections {
                stream.write_all(REQUEST)?;
            }
            for stream in &mut self.connections {
                stream.read_exact(&mut self.response)?;
            }
            if !self.response.starts_with(b"HTTP/1.1 200 ") || !self.response.ends_with(BODY) {
                return Err(unexpected(&self.response));
            }
        }
        Ok(())
    }
}

const BODY: &[u8] = b"Hello, World!";

/// Reads until the body has arrived, which is the same for all servers.
fn first_response(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut response = Vec::new();
    while !response.ends_with(BODY) {
        let mut piece = [0; 1024];
        match stream.read(&mut piece)? {
            0 => return Err(unexpected(&response)),
            n => response.extend_from_slice(&piece[..n]),
        }
    }
    Ok(response)
}

fn unexpected(response: &[u8]) -> io::Error {
    io::Error::other(format!("the response was {:?}", String::from_utf8_lossy(response)))
}
