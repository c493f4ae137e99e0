//! Clients that send nothing, or too little (D12), and those that stop midway.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::{allow_descriptors, get, post, seconds, took};
use crate::Harness;
use crate::client::{End, PATIENCE};

const HALF_A_HEAD: &str = "GET / HTTP/1.1\r\nHos";

pub(crate) fn d12_head_timeout_is_absolute(harness: &Harness) {
    let server = harness.serve(&["--header-timeout", "1"]);
    let mut client = server.connect();
    let mut sender = client.sender();
    let start = Instant::now();
    thread::scope(|scope| {
        // Constant progress, which would restart a timer that is not absolute.
        scope.spawn(move || {
            for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain([b'x'; 100].iter()) {
                if start.elapsed() > seconds(4.0) || sender.write_all(&[*byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        let response = client.response();
        took("the response came", start, 0.9..2.0);
        assert_eq!((response.status, response.announces_close()), (408, true), "{response:?}");
        assert_eq!(client.end(PATIENCE), End::Fin);
    });
}

pub(crate) fn d12_head_timeout_holds_in_a_drain(harness: &Harness) {
    let mut server = harness.serve(&["--header-timeout", "1"]);
    let mut client = server.connect();
    let start = Instant::now();
    client.send(HALF_A_HEAD);
    server.catch_up();
    server.drain();
    let response = client.last_response(408);
    took("the 408 came", start, 0.9..2.0);
    drop((client, response));
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d12_fresh_connection_ends_after_the_header_timeout(harness: &Harness) {
    let server = harness.serve(&["--header-timeout", "1"]);
    let start = Instant::now();
    let mut client = server.connect();
    assert_eq!(client.end(PATIENCE), End::Fin);
    took("it ended", start, 0.9..2.0);
}

pub(crate) fn d12_fresh_connection_is_kept_in_a_drain_as_an_idle_one(harness: &Harness) {
    for (keep_alive, header_timeout) in [("1", "20"), ("20", "1")] {
        let mut server = harness.serve(&["--keep-alive", keep_alive, "--header-timeout", header_timeout]);
        let start = Instant::now();
        let mut client = server.connect();
        server.catch_up();
        server.drain();
        assert_eq!(client.end(PATIENCE), End::Fin);
        took("it ended", start, 0.9..2.0);
        drop(client);
        assert_eq!(server.exit(PATIENCE), 0);
    }
}

pub(crate) fn d12_slow_and_silent_clients_delay_no_other_client(harness: &Harness) {
    allow_descriptors(4096);
    let server = harness.serve(&["--header-timeout", "30"]);
    let silent: Vec<_> = (0..500).map(|_| server.connect()).collect();
    let mut slow: Vec<_> = (0..64).map(|_| server.connect()).collect();
    let mut other = server.connect();
    let mut waits = Vec::new();
    for byte in &HALF_A_HEAD.as_bytes()[..3] {
        for client in &mut slow {
            client.send([*byte]);
        }
        let second = Instant::now();
        while second.elapsed() < seconds(1.0) {
            let asked = Instant::now();
            other.get("/");
            server.connect().get("/");
            waits.push(asked.elapsed());
            thread::sleep(Duration::from_millis(10));
        }
    }
    waits.sort();
    let usual = waits[waits.len() / 2];
    assert!(usual < seconds(0.05), "others waited for {usual:?}");
    drop((silent, slow));
}

pub(crate) fn a_body_that_trickles_is_408_while_others_are_served(harness: &Harness) {
    let server = harness.serve(&["--body-timeout", "1", "--min-body-rate", "50"]);
    let [mut trickling, mut steady] = [(); 2].map(|()| server.connect());
    let mut senders = [(trickling.sender(), 1), (steady.sender(), 20)];
    let (start, bytes) = (Instant::now(), 400);
    for client in [&mut trickling, &mut steady] {
        client.send(post("/collect", bytes));
    }
    thread::scope(|scope| {
        // Both clients make progress all the time: 10 bytes a second, and 200.
        scope.spawn(move || {
            for _ in 0..30 {
                for (sender, piece) in &mut senders {
                    // The slow client is refused before it is done, the other has nothing more to
                    // send after a while.
                    let _ = sender.write_all(&vec![b'x'; *piece]);
                }
                if start.elapsed() > seconds(5.0) {
                    break;
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        let mut other = server.connect();
        while !trickling.has_more(Duration::from_millis(50)) {
            other.get("/");
        }
        trickling.last_response(408);
        took("the 408 came", start, 0.9..3.0);
        assert_eq!(steady.response().text(), "400\n");
    });
}

pub(crate) fn a_slow_reader_is_cut_while_others_are_served(harness: &Harness) {
    let server = harness.serve(&["--write-timeout", "1", "--min-write-rate", "1G"]);
    let mut client = server.connect();
    let start = Instant::now();
    client.send(get("/stream?chunks=16384&size=65536&ms=0"));
    assert_eq!(client.head().status, 200);
    let mut other = server.connect();
    // The client reads several mebibytes a second. The limit is a gibibyte.
    let broken = loop {
        match client.chunk() {
            Ok(_) => assert!(start.elapsed() < seconds(8.0), "the slow reader is not cut"),
            Err(broken) => break broken,
        }
        other.get("/");
        thread::sleep(Duration::from_millis(10));
    };
    assert!(broken.is_cut_by_server(), "{broken}");
    took("the response was cut", start, 0.9..8.0);
}

pub(crate) fn a_stalled_body_ends_its_connection(harness: &Harness) {
    let server = harness.serve(&["--body-timeout", "1", "--threads", "1"]);
    let start = Instant::now();
    let mut client = server.connect();
    client.send(post("/echo", 100) + "half");
    match client.try_response() {
        Ok(response) => assert_eq!((response.status, response.announces_close()), (408, true)),
        Err(broken) => assert!(broken.is_cut_by_server(), "{broken}"),
    }
    took("it ended", start, 0.9..2.5);
    server.connect().get("/block?ms=0");
}

pub(crate) fn a_stalled_reader_ends_its_connection(harness: &Harness) {
    let server = harness.serve(&["--write-timeout", "1", "--threads", "1"]);
    let mut client = server.connect();
    client.send(get("/stream?chunks=10000&size=16384&ms=0"));
    let mut response = client.head();
    let start = Instant::now();
    // The only handler thread is free again once the stalled response has ended.
    server.connect().get("/block?ms=0");
    took("the response was cut", start, 0.7..3.0);
    let broken = client.try_body(&mut response).expect_err("the response is cut");
    assert!(broken.is_cut_by_server(), "{broken}");
}
