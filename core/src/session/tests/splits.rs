//! How the input is split, and how fast the output is read, makes no difference.

use proptest::prelude::*;

use super::*;
use crate::machine::CloseReason;
use crate::testing::{Event, Transcript, without_interim};

/// A script, and how the connection ends once the peer has ended its side after it.
pub(super) fn scripts() -> Vec<(&'static str, String, CloseReason)> {
    use CloseReason as R;
    let chunked = |target: &str, chunks: &str| {
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
    };
    let expect = |target: &str, body: &str| {
        let len = body.len();
        format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {len}\r\n\r\n{body}"
        )
    };
    vec![
        ("nothing", String::new(), R::PeerClosed),
        ("get", get("/"), R::PeerClosed),
        ("empty lines before", format!("\r\n\r\n{}\r\n", get("/")), R::PeerClosed),
        ("half a head", "GET / HTTP/1.1\r\nHos".to_owned(), R::PeerAborted),
        ("a request and half a head", get("/") + "GET", R::PeerAborted),
        ("asked to close", get("/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), R::Finished),
        ("nothing behind close", get("/close") + &get("/"), R::Finished),
        ("length", post("/echo", "some content") + &get("/"), R::PeerClosed),
        ("empty length", post("/echo", "") + &get("/"), R::PeerClosed),
        (
            "chunked",
            chunked("/echo", "5\r\nhello\r\n7;x=\"\\\"\"\r\n, world\r\n0\r\nA: b\r\nC: d\r\n\r\n")
                + &get("/"),
            R::PeerClosed,
        ),
        ("bad chunk", chunked("/echo", "5\r\nhelloX\r\n0\r\n\r\n"), R::Refused),
        ("pipelined", get("/?1") + &get("/?2") + &get("/?3"), R::PeerClosed),
        (
            "pipelined bodies",
            post("/echo", "one")
                + &chunked("/echo", "3\r\ntwo\r\n0\r\n\r\n")
                + &get("/stream?3")
                + &post("/echo", "four"),
            R::PeerClosed,
        ),
        ("1.0", "GET / HTTP/1.0\r\n\r\n".to_owned() + &get("/"), R::Finished),
        ("1.0 stream", "GET /stream?3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_owned(), R::Finished),
        ("1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".repeat(2), R::PeerClosed),
        (
            "head",
            get("/").replace("GET", "HEAD") + &get("/stream?2").replace("GET", "HEAD") + &get("/"),
            R::PeerClosed,
        ),
        ("hints", get("/hints?3") + &get("/"), R::PeerClosed),
        (
            "trailers",
            chunked("/trailers", "4\r\nabcd\r\n0\r\nX-Sum: 7\r\nHost: b\r\nX-More:\r\n\r\n") + &get("/"),
            R::PeerClosed,
        ),
        (
            "unread trailers",
            chunked("/", "4\r\nabcd\r\n0\r\nX-Sum: 7\r\n\r\n") + &get("/trailers"),
            R::PeerClosed,
        ),
        ("unknown expectation", expect("/", "x").replace("100-continue", "200-ok") + &get("/"), R::Refused),
        ("sent too short", get("/sent-length?5"), R::ApplicationFailed),
        ("sent too long", get("/sent-length?3"), R::ApplicationFailed),
        ("no content", get("/no-content") + &get("/"), R::PeerClosed),
        ("expect and read", expect("/echo", "wanted") + &get("/"), R::PeerClosed),
        ("expect and ignore", expect("/", "unwanted") + &get("/"), R::Finished),
        ("bad request line", "GET\r\n\r\n".to_owned(), R::Refused),
        ("bad field", "GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned() + &get("/"), R::Refused),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned(), R::Refused),
        (
            "ambiguous",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_owned(),
            R::Refused,
        ),
        ("unknown version", "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), R::Refused),
        ("refused behind an answer", get("/") + "BAD\r\n\r\n", R::Refused),
        (
            "truncated length",
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf".to_owned(),
            R::PeerAborted,
        ),
        ("truncated chunk", chunked("/echo", "9\r\nhalf"), R::PeerAborted),
        ("unread body", post("/", "nobody wants this") + &get("/"), R::PeerClosed),
        ("unread chunks", chunked("/", "4\r\nabcd\r\n0\r\n\r\n") + &get("/"), R::PeerClosed),
        (
            "read while answering",
            chunked("/pipe", "b\r\nhello world\r\n0\r\n\r\n") + &get("/"),
            R::PeerClosed,
        ),
        ("upgrade", upgrade() + "raw bytes\r\n\r\nGET", R::UpgradeEnded),
        ("late failure", get("/late-fail") + &get("/"), R::ApplicationFailed),
        ("failure", get("/fail") + &get("/"), R::PeerClosed),
        ("too short", get("/short-body"), R::ApplicationFailed),
    ]
}

/// Scripts too long to be cut at every byte.
fn long_scripts() -> Vec<(&'static str, String, CloseReason)> {
    let body = "b".repeat(100_000);
    let chunks: String = (0..40).map(|_| format!("2000\r\n{}\r\n", "c".repeat(0x2000))).collect();
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let many = (0..100).map(|n| format!("X-{n}: {}\r\n", "v".repeat(500))).collect::<String>();
    vec![
        ("much unread", post("/", &body) + &get("/"), CloseReason::Finished),
        ("much read", post("/count", &body) + &get("/"), CloseReason::PeerClosed),
        ("unread below the bound", post("/", &body[..60_000]) + &get("/"), CloseReason::PeerClosed),
        ("many unread chunks", format!("{chunked}{chunks}0\r\n\r\n{}", get("/")), CloseReason::Finished),
        ("long target", get(&format!("/{}", "a".repeat(9000))), CloseReason::Refused),
        ("long field", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {body}\r\n\r\n"), CloseReason::Refused),
        ("many fields", format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), CloseReason::Refused),
        (
            "long head",
            format!("GET / HTTP/1.1\r\n{}", format!("Y: {}\r\n", "v".repeat(7000)).repeat(10)),
            CloseReason::Refused,
        ),
    ]
}

#[derive(Clone, Debug)]
struct How {
    short: bool,
    read_most: usize,
    write_most: usize,
    /// A pause before each of these offsets.
    cuts: Vec<usize>,
}

const WHOLE: How = How { short: false, read_most: usize::MAX, write_most: usize::MAX, cuts: Vec::new() };

fn play(script: &str, how: &How) -> Transcript {
    let mut bench = bench_of(how.short);
    (bench.pipe.0.borrow_mut().read_most, bench.pipe.0.borrow_mut().write_most) =
        (how.read_most, how.write_most);
    let (mut from, mut at) = (0, 0);
    for &cut in how.cuts.iter().chain([&script.len()]) {
        bench = bench.bytes(at, &script[from..cut]);
        (from, at) = (cut, at + 1);
    }
    let mut transcript = bench.at(at, Event::Eof).run();
    transcript.out = without_interim(&transcript.out);
    transcript
}

#[test]
fn each_script_ends_once_and_for_its_reason() {
    for (name, script, reason) in scripts().into_iter().chain(long_scripts()) {
        assert_eq!(play(&script, &WHOLE).reason, Some(reason), "{name}");
    }
}

#[test]
fn an_input_split_at_any_byte_gives_the_same_transcript() {
    for (name, script, _) in scripts() {
        let whole = play(&script, &WHOLE);
        for cut in 0..=script.len() {
            assert_eq!(play(&script, &How { cuts: vec![cut], ..WHOLE }), whole, "{name}, cut at {cut}");
        }
        let each = (0..script.len()).collect();
        assert_eq!(play(&script, &How { cuts: each, ..WHOLE }), whole, "{name}, byte by byte");
    }
}

#[test]
fn short_and_blocking_handlers_give_the_same_transcript() {
    for (name, script, _) in scripts() {
        if !suits_short(name) {
            continue;
        }
        let whole = play(&script, &WHOLE);
        let inline = How { short: true, ..WHOLE };
        assert_eq!(play(&script, &inline), whole, "{name}");
        for cut in 0..=script.len() {
            assert_eq!(
                play(&script, &How { cuts: vec![cut], ..inline.clone() }),
                whole,
                "{name}, cut at {cut}"
            );
        }
    }
}

#[test]
fn a_peer_that_reads_byte_by_byte_gets_the_same_transcript() {
    for (name, script, _) in scripts() {
        for short in [false, true].into_iter().filter(|short| !short || suits_short(name)) {
            let narrow = How { short, read_most: 1, write_most: 1, cuts: Vec::new() };
            assert_eq!(play(&script, &narrow), play(&script, &WHOLE), "{name}");
        }
    }
}

#[test]
fn long_inputs_split_anywhere_give_the_same() {
    for (name, script, _) in long_scripts() {
        let whole = play(&script, &WHOLE);
        for read_most in [1, 100, 1447, 8192, 10_000] {
            for short in [false, true] {
                let how = How { short, read_most, ..WHOLE };
                assert_eq!(play(&script, &how), whole, "{name} by {read_most}");
            }
        }
        for cut in (0..script.len()).step_by(script.len() / 50) {
            assert_eq!(play(&script, &How { cuts: vec![cut], ..WHOLE }), whole, "{name}, cut at {cut}");
        }
    }
}

/// An upgraded connection waits for its peer, which a short handler must not; and a body that
/// arrives before the handler starts is there, whether the handler streams it or not.
fn suits_short(name: &str) -> bool {
    !matches!(name, "upgrade" | "expect and ignore")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_scripts_gives_the_same_however_it_is_cut(
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        read_most in 1_usize..200,
        write_most in 1_usize..200,
    ) {
        let scripts = scripts();
        let script: String = picks.iter().map(|pick| pick.get(&scripts).1.as_str()).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(script.len() + 1)).collect();
        cuts.sort_unstable();
        let how = How { short: false, read_most, write_most, cuts };
        prop_assert_eq!(play(&script, &how), play(&script, &WHOLE));
    }
}
