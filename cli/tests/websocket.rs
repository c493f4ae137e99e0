//! Runs the WebSocket examples on several backends, and while their server stops.

use std::net::TcpStream;
use std::path::Path;

use remuda_conformance::Harness;
use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::process::Server;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket, client};

/// A server that runs the example `name`, which is built along with these tests.
fn serve(name: &str, backend: &str) -> Server {
    let programs = Path::new(env!("CARGO_BIN_EXE_remuda")).parent().expect("a program is in a directory");
    let example = programs.join("examples").join(name);
    assert!(example.exists(), "{example:?} is not built: cargo build -p remuda --examples");
    Harness::new(backend, "", &example).serve(&["--graceful-timeout", "10"])
}

fn connect(server: &Server) -> WebSocket<TcpStream> {
    let Address::Inet(address) = server.address() else { panic!("not on TCP") };
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
    let (socket, response) = client(format!("ws://{address}/"), stream).expect("it speaks WebSocket");
    assert_eq!(response.status(), 101);
    socket
}

/// Sends a message and expects its echo.
#[track_caller]
fn converse(socket: &mut WebSocket<TcpStream>, message: impl Into<Message>) {
    let message = message.into();
    socket.send(message.clone()).expect("it can be sent");
    assert_eq!(socket.read().expect("it is answered"), message);
}

fn echoes(name: &str, backend: &str) {
    let server = serve(name, backend);
    let mut socket = connect(&server);
    converse(&mut socket, "hello");
    converse(&mut socket, vec![7; 1 << 20]);
    socket.send(Message::Ping("are you there".into())).expect("it can be sent");
    assert_eq!(socket.read().expect("it is answered"), Message::Pong("are you there".into()));
    socket.close(None).expect("it can be sent");
    assert!(socket.read().expect("it is answered").is_close());
    assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));

    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.field("upgrade")), (426, Some("websocket")));
}

fn d13_says_goodbye_when_the_server_stops(name: &str, backend: &str) {
    let mut server = serve(name, backend);
    let mut socket = connect(&server);
    converse(&mut socket, "hello");
    server.drain();
    match socket.read().expect("it says goodbye") {
        Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Away),
        other => panic!("{other:?} is no goodbye"),
    }
    assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
    drop(socket);
    assert_eq!(server.exit(PATIENCE), 0);
}

macro_rules! on {
    ($($backend:ident: $name:literal),+) => {$(
        mod $backend {
            #[test]
            fn echoes() {
                super::echoes($name, stringify!($backend));
            }

            #[test]
            fn d13_says_goodbye_when_the_server_stops() {
                super::d13_says_goodbye_when_the_server_stops($name, stringify!($backend));
            }
        }
    )+};
}

/// The example with blocking handlers.
mod blocking {
    use super::{d13_says_goodbye_when_the_server_stops, echoes};

    on! { threaded: "websocket", mio: "websocket", tokio: "websocket" }
}

/// The example with async handlers.
mod axum {
    use super::{d13_says_goodbye_when_the_server_stops, echoes};

    on! { threaded: "websocket_axum", mio: "websocket_axum", tokio: "websocket_axum" }
}
