use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn peer() -> impl Strategy<Value = Peer> {
    let v4 = any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port)));
    let v6 = any::<([u8; 16], u16, u32, u32)>()
        .prop_map(|(ip, port, flow, scope)| SocketAddrV6::new(ip.into(), port, flow, scope).into());
    prop_oneof![Just(Peer::Unix), v4.prop_map(Peer::Inet), v6.prop_map(Peer::Inet)]
}

fn time() -> impl Strategy<Value = Time> {
    any::<u64>().prop_map(Time::from_nanos)
}

prop_compose! {
    fn record()(
        (listener, served, draw) in any::<(u16, u32, u32)>(),
        accepted in time(),
        handed in prop::option::of(time()),
        idle_since in prop::option::of(time()),
        head_since in prop::option::of(time()),
        peer in peer(),
        proxied in prop::option::of(peer()),
        unread in prop::collection::vec(any::<u8>(), 0..100),
    ) -> HandOff {
        let fresh = HandOff::fresh(Origin::new(listener, peer, draw), accepted);
        HandOff { served, handed, idle_since, head_since, proxied, unread: unread.into(), ..fresh }
    }
}

fn fresh() -> HandOff {
    HandOff::fresh(Origin::new(3, Peer::Unix, 7), Time::from_nanos(9))
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_the_same(record in record()) {
        prop_assert_eq!(HandOff::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn every_prefix_and_every_appendix_is_refused(record in record(), more in 1..9usize) {
        let mut bytes = record.encode();
        for len in 0..bytes.len() {
            prop_assert_eq!(HandOff::decode(&bytes[..len]), Err(RecordError::Malformed { len }));
        }
        bytes.resize(bytes.len() + more, 0);
        prop_assert_eq!(HandOff::decode(&bytes), Err(RecordError::Malformed { len: bytes.len() }));
    }

    #[test]
    fn any_bytes_are_a_record_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 2..200)) {
        bytes[..2].copy_from_slice(&HandOff::VERSION.to_le_bytes());
        if let Ok(record) = HandOff::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }
}

#[test]
fn another_version_is_refused_whatever_follows() {
    for found in [0, 2, u16::MAX - 1] {
        let bytes = HandOff { version: found, ..fresh() }.encode();
        assert_eq!(HandOff::decode(&bytes), Err(RecordError::Version { found }));
        assert_eq!(HandOff::decode(&bytes[..2]), Err(RecordError::Version { found }));
    }
}

#[test]
fn a_full_read_buffer_fits_and_one_byte_more_does_not() {
    let record = HandOff { unread: vec![b'x'; READ_BUFFER_MAX].into(), ..fresh() };
    let bytes = record.encode();
    assert!(bytes.len() <= HandOff::MAX);
    assert_eq!(HandOff::decode(&bytes), Ok(record));
    let bytes = HandOff { unread: vec![b'x'; READ_BUFFER_MAX + 1].into(), ..fresh() }.encode();
    assert_eq!(HandOff::decode(&bytes), Err(RecordError::Malformed { len: bytes.len() }));
}

/// Records and the bytes that version 1 makes of them, which builds that are in use send: they stay as they are, whatever the
/// newest version is.
fn version_1() -> [(HandOff, Vec<u8>); 2] {
    let nanos = |nanos| Some(Time::from_nanos(nanos));
    let peer = Peer::Inet(([127, 0, 0, 1], 0x1234).into());
    let idle = HandOff {
        version: 1,
        served: 1,
        handed: nanos(6),
        idle_since: nanos(2),
        unread: Bytes::from_static(b"GE"),
        ..HandOff::fresh(Origin::new(3, peer, 4), Time::from_nanos(5))
    };
    let client = SocketAddrV6::new(1_u128.into(), 0x5678, 9, 10);
    let proxied = HandOff {
        version: 1,
        served: 0x0102_0304,
        head_since: nanos(0x0102_0304_0506_0708),
        proxied: Some(Peer::Inet(client.into())),
        ..HandOff::fresh(Origin::new(0x0b0c, Peer::Unix, 0x0d0e_0f10), Time::from_nanos(11))
    };
    #[rustfmt::skip]
    let bytes = [
        vec![
            1, 0, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0,
            4, 127, 0, 0, 1, 0x34, 0x12, 0, 2, 0, 0, 0, b'G', b'E',
        ],
        vec![
            1, 0, 0x0c, 0x0b, 4, 3, 2, 1, 0x10, 0x0f, 0x0e, 0x0d, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 8, 7, 6, 5, 4, 3, 2, 1,
            0, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x78, 0x56, 9, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0,
        ],
    ];
    let [of_idle, of_proxied] = bytes;
    [(idle, of_idle), (proxied, of_proxied)]
}

#[test]
fn what_version_1_has_written_is_read() {
    for (record, bytes) in version_1() {
        assert_eq!(HandOff::decode(&bytes), Ok(record));
    }
}

#[test]
fn the_layout_is_what_version_1_says() {
    for (record, bytes) in version_1() {
        assert_eq!(record.encode(), bytes);
    }
}

#[test]
fn a_record_of_a_version_with_a_member_more_is_read_if_that_is_right() {
    let record = HandOff { version: HandOff::TRIAL, draw: 7, ..fresh() };
    let mut bytes = record.encode();
    assert_eq!(bytes.len(), fresh().encode().len() + 4);
    assert_eq!(HandOff::decode(&bytes), Ok(record.clone()));
    assert_eq!(HandOff::decode(&record.encode_as(1)), Ok(HandOff { version: 1, ..record }));
    bytes[12] ^= 1;
    assert_eq!(HandOff::decode(&bytes), Err(RecordError::Malformed { len: bytes.len() }));
}

#[test]
fn two_programs_use_the_newest_version_that_both_read_unless_the_older_cannot_be_read() {
    let records = |text: &str| text.parse::<Records>().unwrap();
    for (ours, theirs, written) in [
        ("1", "1", Some(1)),
        ("1,2", "1", Some(1)),   // to a newer one
        ("1", "2,1", Some(1)),   // and back
        ("1,2", "2,1", Some(2)), // from then on all read it
        ("1,2,3", "1,2", Some(2)),
        ("1", "1,2", None), // what it writes stays, so it is not understood
        ("2", "1", None),
        ("1", "2", None),
    ] {
        let beside = records(ours).beside(&records(theirs));
        assert_eq!(beside.as_ref().map(Records::written), written, "{ours} beside {theirs}");
        // Whatever it writes, it reads what it did before.
        let reads = |records: &Records| records.reads.iter().copied().collect::<BTreeSet<_>>();
        assert!(beside.is_none_or(|beside| reads(&beside) == reads(&records(ours))));
    }
}

#[test]
fn records_are_written_down_with_the_one_that_is_written_last() {
    assert_eq!((Records::default().to_string(), Records::default().written()), ("1".into(), 1));
    let records: Records = "2,1".parse().unwrap();
    assert_eq!((records.to_string(), records.written()), ("2,1".into(), 1));
    for text in ["", "one", "1,", "65536"] {
        assert!(text.parse::<Records>().is_err(), "{text:?}");
    }
}
