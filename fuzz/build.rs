//! Writes the requests of `tests/corpus` as initial inputs of the targets: to `corpus/TARGET`,
//! where `cargo fuzz` reads them and adds its own.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let (cases, corpus) = (Path::new(&here).join("../tests/corpus"), Path::new(&here).join("corpus"));
    for target in ["head", "chunked", "connection", "proxy"] {
        fs::create_dir_all(corpus.join(target))?;
    }
    for (number, header) in PROXIES.iter().enumerate() {
        fs::write(corpus.join("proxy").join(number.to_string()), header)?;
    }
    for folder in ["valid", "invalid"] {
        println!("cargo::rerun-if-changed={}", cases.join(folder).display());
        for case in fs::read_dir(cases.join(folder))? {
            let path = case?.path();
            if path.extension().is_none_or(|extension| extension != "http") {
                continue;
            }
            let name = path.file_stem().expect("it has an extension").to_string_lossy().into_owned();
            let request = fs::read(&path)?;
            fs::write(corpus.join("head").join(&name), &request)?;
            fs::write(corpus.join("chunked").join(&name), body(&request))?;
            for kind in 0..4 {
                let input = connection(kind, &request);
                fs::write(corpus.join("connection").join(format!("{name}-{kind}")), input)?;
            }
        }
    }
    Ok(())
}

/// Headers of the PROXY protocol. The corpus has none, because its requests are sent to a server
/// that expects none.
const PROXIES: [&[u8]; 6] = [
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 80\r\nGET",
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 4711 65535\r\n",
    b"PROXY UNKNOWN whatever\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\x00",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x01\xc0\0\x02\x02\x12\x67\0\x50\x03\0\x04abcd",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x28aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb\x12\x67\0\x50\x04\0\x01z",
];

/// The bytes after the first head.
fn body(request: &[u8]) -> &[u8] {
    let end = request.windows(4).position(|end| end == b"\r\n\r\n");
    end.map_or(&[], |end| &request[end + 4..])
}

/// A client that sends `request` in pieces and ends its side, and an application that answers every
/// request in the same way. The format is that of `src/connection/script.rs`.
fn connection(kind: u8, request: &[u8]) -> Vec<u8> {
    const BYTES: u8 = 0;
    const EOF: u8 = 6;
    let mut input = vec![kind, 0, 0, 0, 0, 0];
    for piece in request.chunks(255) {
        input.extend([BYTES, piece.len() as u8]);
        input.extend_from_slice(piece);
    }
    input.push(EOF);
    input
}
