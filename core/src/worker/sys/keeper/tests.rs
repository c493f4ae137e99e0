use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn tcp_counts_what_was_read_and_written_and_not_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let counts = |server: &TcpStream| tcp_counts(server.as_fd()).unwrap();
    assert_eq!(counts(&server), ByteCounts { read: 0, written: 0 });
    client.write_all(&[7; 100]).unwrap();
    assert_eq!(counts(&server).read, 0, "what has arrived was not read");
    server.read_exact(&mut [0; 60]).unwrap();
    server.write_all(&[7; 3000]).unwrap();
    assert_eq!(counts(&server), ByteCounts { read: 60, written: 3000 });
    client.read_exact(&mut [0; 3000]).unwrap();
    server.read_exact(&mut [0; 40]).unwrap();
    assert_eq!(counts(&server), ByteCounts { read: 100, written: 3000 });
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(counts(&server), ByteCounts { read: 100, written: 3000 });
    assert_eq!(tcp_counts(UnixStream::pair().unwrap().0.as_fd()), None);
}

#[test]
fn only_memory_without_a_file_is_given_back() {
    let is_heap =
        |line: &str| Mapping::parse(line.as_bytes()).map(|mapping| (mapping.is_heap, mapping.is_code));
    let cases = [
        ("55d0a000-55d0b000 rw-p 00000000 00:00 0                          [heap]", (true, false)),
        ("7f00a000-7f00b000 rw-p 00000000 00:00 0 ", (true, false)),
        ("7f00a000-7f00b000 rw-p 00000000 00:00 0                          [anon:glibc]", (true, false)),
        (
            "7f00a000-7f00b000 rw-s 00000000 00:01 77                         /dev/zero (deleted)",
            (false, false),
        ),
        ("7ffc0000-7ffd0000 rw-p 00000000 00:00 0                          [stack]", (false, false)),
        ("7ffc0000-7ffd0000 r-xp 00000000 00:00 0                          [vdso]", (false, false)),
        ("55d0a000-55d0b000 r-xp 00001000 fe:00 5170561                    /usr/bin/remuda", (false, true)),
        ("55d0a000-55d0b000 rw-p 00001000 fe:00 5170561                    /usr/bin/remuda", (false, false)),
    ];
    for (line, expected) in cases {
        assert_eq!(is_heap(line), Some(expected), "{line}");
    }
    let mapping = Mapping::parse(b"55d0a000-55d0b000 rw-p 00000000 00:00 0").unwrap();
    assert_eq!((mapping.start, mapping.end), (0x55d0_a000, 0x55d0_b000));
    assert!(Mapping::parse(b"").is_none());
}

#[test]
fn all_lines_of_the_maps_are_read() {
    let maps = std::fs::File::open("/proc/self/maps").unwrap();
    let mut lines = Lines { fd: maps.as_fd(), buffer: [0; 4096], len: 0 };
    let here = only_memory_without_a_file_is_given_back as fn() as usize;
    let mut found = 0;
    while let Some(mapping) = lines.next() {
        found += usize::from(mapping.is_code && (mapping.start..mapping.end).contains(&here));
    }
    assert_eq!(found, 1, "this code is mapped once");
}
