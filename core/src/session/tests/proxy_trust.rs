//! What proxies in front of the server say about clients: trusted if they may, and refused if
//! malformed.

use super::*;
use crate::config::{Limits, Underscores};
use crate::conn::Connection;
use crate::handoff::ConnectionRecord;
use crate::machine::CloseReason;
use crate::peer::{Origin, Peer};
use crate::proxy::ProxyProtocol;
use crate::session::Protocol;
use crate::shutdown::ConnState;
use crate::testing::{Event, START, Transcript, ms};
use crate::trust::Trusted;

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x12\x34\0\x50";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Answers with the client's address.
fn who(head: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
    Ok(out.send(ResponseHead::new(200), format!("<{}>", head.client()))?)
}

fn at(text: &str) -> Peer {
    Peer::Inet(text.parse().unwrap())
}

/// A connection from `peer`.
fn from(peer: Peer) -> Bench {
    Bench::resuming(who, |now| Connection::new(Origin::new(0, peer, 7), now))
}

fn proxied(wanted: ProxyProtocol) -> Bench {
    from(at("127.0.0.1:9")).limits(|limits| limits.proxies.proxy_protocol = wanted)
}

/// The clients' addresses, request by request.
fn askers(transcript: &Transcript) -> Vec<&str> {
    let parts = transcript.out.split('<').skip(1);
    parts.map(|part| part.split('>').next().unwrap()).collect()
}

fn twice(header: &[u8]) -> Vec<u8> {
    [header, get("/1").as_bytes(), get("/2").as_bytes()].concat()
}

#[test]
fn a_header_names_the_client_of_all_requests() {
    for (header, wanted) in [
        (V1, ProxyProtocol::V1),
        (V2, ProxyProtocol::V2),
        (V1, ProxyProtocol::Auto),
        (V2, ProxyProtocol::Auto),
    ] {
        let transcript = proxied(wanted).bytes(0, twice(header)).at(1, Event::Eof).run();
        assert_eq!(askers(&transcript), ["192.0.2.1:4660"; 2]);
        assert_eq!(transcript.reason, Some(CloseReason::PeerClosed));
    }
}

#[test]
fn a_header_may_come_byte_by_byte() {
    for header in [V1, V2] {
        let mut bench = proxied(ProxyProtocol::Auto);
        for (n, byte) in (0..).zip(twice(header)) {
            bench = bench.bytes(n, [byte]);
        }
        assert_eq!(askers(&bench.at(500, Event::Eof).run()), ["192.0.2.1:4660"; 2]);
    }
}

#[test]
fn a_proxy_header_without_an_address_leaves_the_peer_as_client() {
    for header in [LOCAL, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ::2 ::1 1 2\r\n"] {
        let transcript = proxied(ProxyProtocol::Auto).bytes(0, twice(header)).at(1, Event::Eof).run();
        assert_eq!(askers(&transcript), ["127.0.0.1:9"; 2]);
    }
    // As health checks of balancers do.
    let transcript = proxied(ProxyProtocol::Auto).bytes(0, LOCAL).at(1, Event::Eof).run();
    assert_eq!((&*transcript.out, transcript.reason), ("", Some(CloseReason::PeerClosed)));
}

#[test]
fn a_malformed_header_is_refused() {
    for bytes in [
        get("/").into_bytes(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n".to_vec(),
        [b"\r\n", V1].concat(),
        [LOCAL, V2].concat(),
    ] {
        let transcript = proxied(ProxyProtocol::Auto).bytes(0, bytes).at(1, Event::Eof).run();
        assert!(transcript.out.starts_with("HTTP/1.1 400 "), "{}", transcript.out);
        assert_eq!(count(&transcript.out, "HTTP/1.1"), 1);
        assert!(transcript.out.contains(CLOSE) && askers(&transcript).is_empty());
        assert_eq!(transcript.reason, Some(CloseReason::Refused));
    }
}

#[test]
fn without_the_setting_a_header_is_a_malformed_request() {
    for header in [V1, V2] {
        let transcript = from(Peer::Unix).bytes(0, twice(header)).at(1, Event::Eof).run();
        assert!(transcript.out.starts_with("HTTP/1.1 400 ") && askers(&transcript).is_empty());
    }
}

#[test]
fn a_header_of_an_untrusted_peer_is_refused() {
    let asked_by = |peer: Peer, allowed: Option<&str>| {
        let bench = from(peer).limits(|limits| {
            limits.proxies.proxy_protocol = ProxyProtocol::V1;
            limits.proxies.proxy_allow_from = allowed.map(|list| Trusted::parse([list]).unwrap());
        });
        bench.bytes(0, twice(V1)).at(1, Event::Eof).run().out[9..12].to_owned()
    };
    assert_eq!(asked_by(at("127.0.0.1:9"), None), "200");
    assert_eq!(asked_by(at("[::1]:9"), None), "200");
    assert_eq!(asked_by(at("10.0.0.1:9"), None), "403");
    assert_eq!(asked_by(at("10.0.0.1:9"), Some("10.0.0.0/8")), "200");
    assert_eq!(asked_by(at("127.0.0.1:9"), Some("10.0.0.0/8")), "403");
    assert_eq!(asked_by(at("127.0.0.1:9"), Some("unix")), "403");
    assert_eq!(asked_by(Peer::Unix, Some("unix")), "200");
}

#[test]
fn d12_a_header_is_part_of_the_first_head() {
    let after = |times: [(u64, &[u8]); 2]| {
        let bench = proxied(ProxyProtocol::V1);
        let mut bench = times.into_iter().fold(bench, |bench, (at, part)| bench.bytes(at, part));
        let transcript = bench.run();
        (transcript.out.get(9..12).map(str::to_owned), transcript.reason, bench.now())
    };
    let linger = 2000;
    let (status, _, end) = after([(0, &V1[..9]), (9000, &V1[9..12])]);
    assert_eq!((status.as_deref(), end), (Some("408"), 10_000 + linger));
    let (status, _, end) = after([(3000, V1), (9000, b"GET / HT")]);
    assert_eq!((status.as_deref(), end), (Some("408"), 19_000 + linger), "nothing of the request had come");
    let (status, _, end) = after([(3000, &V1[..20]), (9000, &[&V1[20..], b"GET / HT"].concat())]);
    assert_eq!((status.as_deref(), end), (Some("408"), 13_000 + linger));
    // No request was begun.
    assert_eq!(after([(0, &V1[..9]), (1, &V1[9..])]), (None, Some(CloseReason::IdleTimeout), 10_000));
}

/// The connection of `bench` with its next owner, after 10 ms.
fn moved(bench: &mut Bench) -> Bench {
    bench.until(10);
    let record = bench.session.as_ref().unwrap().hand_off(bench.world.now).expect("it moves");
    let record = ConnectionRecord::decode(&record.encode()).unwrap();
    let next = Bench::resuming(who, |_| Connection::resume(record, START + ms(10)));
    next.limits(|limits| limits.proxies.proxy_protocol = ProxyProtocol::Auto)
}

#[test]
fn a_client_named_by_a_header_keeps_its_address_in_a_handoff() {
    for header in [V1, V2] {
        let script = twice(header);
        for cut in 0..=script.len() {
            let mut first = proxied(ProxyProtocol::Auto).bytes(0, &script[..cut]);
            let mut second = moved(&mut first).bytes(20, &script[cut..]).at(30, Event::Eof);
            let (before, after) = (first.transcript(), second.run());
            let asked = [askers(&before), askers(&after)].concat();
            assert_eq!(asked, ["192.0.2.1:4660"; 2], "moved at {cut}");
        }
    }
}

#[test]
fn a_local_header_is_not_expected_again_after_a_handoff() {
    let mut first = proxied(ProxyProtocol::V2).bytes(0, LOCAL);
    let mut second = moved(&mut first).bytes(20, get("/")).at(30, Event::Eof);
    assert_eq!(first.connection().state(), ConnState::Fresh);
    assert_eq!(askers(&second.run()), ["127.0.0.1:9"]);
}

/// A reload may change the setting while connections are open.
#[test]
fn a_header_is_not_asked_for_in_the_middle_of_a_connection() {
    let mut first = from(at("10.0.0.1:9")).bytes(0, get("/"));
    let mut second = moved(&mut first).bytes(20, get("/")).at(30, Event::Eof);
    assert_eq!(askers(&second.run()), ["10.0.0.1:9"]);
}

/// Answers with the facts about the request: client, scheme, host, and the names of its fields.
fn what(head: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
    let client = head.client();
    let host = head.host().unwrap_or_default().escape_ascii();
    let names: Vec<_> = head.fields().map(|(name, _)| name).collect();
    let text = format!("<{client} {} {host} {}>", client.scheme, names.join(","));
    Ok(out.send(ResponseHead::new(200), text)?)
}

/// The facts about a request with these fields from `peer`, or the status of its refusal.
fn known(peer: Peer, fields: &str, change: impl FnOnce(&mut Limits)) -> String {
    let bench = Bench::resuming(what, |now| Connection::new(Origin::new(0, peer, 7), now)).limits(change);
    let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let transcript = bench.bytes(0, request).at(1, Event::Eof).run();
    match askers(&transcript)[..] {
        [known] => known.to_owned(),
        _ => transcript.out[9..12].to_owned(),
    }
}

const FORWARDED: &str =
    "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: example.org\r\n";
const NAMES: &str = "Host,X-Forwarded-For,X-Forwarded-Proto,X-Forwarded-Host";

#[test]
fn a_trusted_peer_is_believed_and_any_other_is_not() {
    let plain = |peer| known(peer, FORWARDED, |_| {});
    assert_eq!(plain(at("127.0.0.1:9")), format!("192.0.2.1 https example.org {NAMES}"));
    assert_eq!(plain(Peer::Unix), format!("192.0.2.1 https example.org {NAMES}"));
    assert_eq!(plain(at("192.0.2.9:9")), format!("192.0.2.9:9 http h {NAMES}"));
    let listed = |list: &str| {
        known(at("192.0.2.9:9"), FORWARDED, |limits| {
            limits.proxies.forwarded = Trusted::parse([list]).unwrap()
        })
    };
    assert_eq!(listed("192.0.2.9"), format!("192.0.2.1 https example.org {NAMES}"));
    assert_eq!(listed("192.0.2.8"), format!("192.0.2.9:9 http h {NAMES}"));
    let standard = "Forwarded: for=\"[2001:db8::1]:80\";proto=https;host=\"example.org:81\"\r\n";
    assert_eq!(known(Peer::Unix, standard, |_| {}), "[2001:db8::1]:80 https example.org:81 Host,Forwarded");
}

#[test]
fn the_client_of_a_header_decides_whether_fields_are_trusted() {
    let said = "\r\nHost: h\r\nX-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\n\r\n";
    let named = |list: &str| {
        let bench = Bench::resuming(what, |now| Connection::new(Origin::new(0, at("127.0.0.1:9"), 7), now));
        let bench = bench.limits(|limits| {
            limits.proxies.proxy_protocol = ProxyProtocol::V1;
            limits.proxies.proxy_allow_from = Some(Trusted::local());
            limits.proxies.forwarded = Trusted::parse([list]).unwrap();
        });
        let request = [V1, b"GET / HTTP/1.1", said.as_bytes()].concat();
        askers(&bench.bytes(0, request).at(1, Event::Eof).run()).concat()
    };
    // The client is behind a balancer that only passes bytes on.
    assert!(named("127.0.0.1").starts_with("192.0.2.1:4660 http h"));
    // The client of the header is itself a proxy.
    assert!(named("192.0.2.1").starts_with("198.51.100.1 https h"));
}

#[test]
fn a_malformed_value_of_a_trusted_peer_is_ignored() {
    for unclear in [
        "X-Forwarded-For: me\r\n",
        "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n",
        "X-Forwarded-Host: a, b\r\n",
        "Forwarded: for=me;proto=h2;host=\r\n",
    ] {
        assert!(known(Peer::Unix, unclear, |_| {}).starts_with("unix http h"), "{unclear}");
    }
    let zone = known(Peer::Unix, "X-Forwarded-For: fe80::1%eth0\r\n", |_| {});
    assert!(zone.starts_with("fe80::1 http h"), "{zone}");
}

#[test]
fn malformed_fields_are_refused_of_trusted_peers_only() {
    for wrong in ["Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n", "Forwarded: \"\r\n"] {
        assert_eq!(known(Peer::Unix, wrong, |_| {}), "400", "{wrong}");
        assert!(known(at("192.0.2.9:9"), wrong, |_| {}).starts_with("192.0.2.9:9 http h"), "{wrong}");
    }
}

#[test]
fn forwarding_fields_count_for_one_request_only() {
    let bench = Bench::resuming(what, |now| Connection::new(Origin::new(0, Peer::Unix, 7), now));
    let first = format!("GET / HTTP/1.1\r\nHost: h\r\n{FORWARDED}\r\n");
    let transcript = bench.bytes(0, first + &get("/")).at(1, Event::Eof).run();
    assert_eq!(askers(&transcript)[1], "unix http a Host");
}

#[test]
fn an_absolute_target_counts_before_its_host_field() {
    let bench = Bench::resuming(what, |now| Connection::new(Origin::new(0, Peer::Unix, 7), now));
    let request = "GET http://example.net:80/ HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(askers(&bench.bytes(0, request).at(1, Event::Eof).run()), ["unix http example.net:80 Host"]);
}

#[test]
fn fields_with_an_underscore_are_left_out_refused_or_kept() {
    let fields = "X_Forwarded_For: 192.0.2.1\r\nA-B: c_d\r\nA_B: c\r\nContent_Length: 9\r\nTransfer_Encoding: chunked\r\n";
    let with = |underscores, fields| {
        known(Peer::Unix, fields, |limits: &mut Limits| limits.proxies.underscores = underscores)
    };
    assert_eq!(known(Peer::Unix, fields, |_| {}), "unix http h Host,A-B");
    assert_eq!(with(Underscores::Refuse, fields), "400");
    assert_eq!(with(Underscores::Refuse, "A-B: c_d\r\n"), "unix http h Host,A-B");
    let all = "unix http h Host,X_Forwarded_For,A-B,A_B,Content_Length,Transfer_Encoding";
    assert_eq!(with(Underscores::Keep, fields), all);
}
