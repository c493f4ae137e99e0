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
    ) -> ConnectionRecord {
        let fresh = ConnectionRecord::fresh(Origin::new(listener, peer, draw), accepted);
        ConnectionRecord { served, handed, idle_since, head_since, proxied, unread: unread.into(), ..fresh }
    }
}

fn fresh() -> ConnectionRecord {
    ConnectionRecord::fresh(Origin::new(3, Peer::Unix, 7), Time::from_nanos(9))
}

proptest! {
    #[test]
    fn decoding_is_the_inverse_of_encoding(record in record()) {
        prop_assert_eq!(ConnectionRecord::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn every_prefix_and_every_appendix_is_refused(record in record(), more in 1..9usize) {
        let mut bytes = record.encode();
        for len in 0..bytes.len() {
            prop_assert_eq!(ConnectionRecord::decode(&bytes[..len]), Err(RecordError::Malformed { len }));
        }
        bytes.resize(bytes.len() + more, 0);
        prop_assert_eq!(ConnectionRecord::decode(&bytes), Err(RecordError::Malformed { len: bytes.len() }));
    }

    #[test]
    fn any_bytes_are_a_record_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 2..200)) {
        bytes[..2].copy_from_slice(&ConnectionRecord::VERSION.to_le_bytes());
        if let Ok(record) = ConnectionRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }
}

#[test]
fn a_record_of_another_version_is_refused() {
    for found in [0, 2, u16::MAX - 1] {
        let bytes = ConnectionRecord { version: found, ..fresh() }.encode();
        assert_eq!(ConnectionRecord::decode(&bytes), Err(RecordError::Version { found }));
        assert_eq!(ConnectionRecord::decode(&bytes[..2]), Err(RecordError::Version { found }));
    }
}

#[test]
fn a_record_holds_a_full_read_buffer_and_no_more() {
    let record = ConnectionRecord { unread: vec![b'x'; READ_BUFFER_MAX].into(), ..fresh() };
    let bytes = record.encode();
    assert!(bytes.len() <= ConnectionRecord::MAX);
    assert_eq!(ConnectionRecord::decode(&bytes), Ok(record));
    let bytes = ConnectionRecord { unread: vec![b'x'; READ_BUFFER_MAX + 1].into(), ..fresh() }.encode();
    assert_eq!(ConnectionRecord::decode(&bytes), Err(RecordError::Malformed { len: bytes.len() }));
}

/// Records, and their bytes in version 1. Builds in use write version 1, so these bytes never
/// change, whatever the newest version is.
fn version_1() -> [(ConnectionRecord, Vec<u8>); 2] {
    let nanos = |nanos| Some(Time::from_nanos(nanos));
    let peer = Peer::Inet(([127, 0, 0, 1], 0x1234).into());
    let idle = ConnectionRecord {
        version: 1,
        served: 1,
        handed: nanos(6),
        idle_since: nanos(2),
        unread: Bytes::from_static(b"GE"),
        ..ConnectionRecord::fresh(Origin::new(3, peer, 4), Time::from_nanos(5))
    };
    let client = SocketAddrV6::new(1_u128.into(), 0x5678, 9, 10);
    let proxied = ConnectionRecord {
        version: 1,
        served: 0x0102_0304,
        head_since: nanos(0x0102_0304_0506_0708),
        proxied: Some(Peer::Inet(client.into())),
        ..ConnectionRecord::fresh(Origin::new(0x0b0c, Peer::Unix, 0x0d0e_0f10), Time::from_nanos(11))
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
fn records_of_version_1_are_read() {
    for (record, bytes) in version_1() {
        assert_eq!(ConnectionRecord::decode(&bytes), Ok(record));
    }
}

#[test]
fn records_are_written_in_the_layout_of_version_1() {
    for (record, bytes) in version_1() {
        assert_eq!(record.encode(), bytes);
    }
}

#[test]
fn a_record_of_the_trial_version_is_read() {
    let record = ConnectionRecord { version: ConnectionRecord::TRIAL, draw: 7, ..fresh() };
    let mut bytes = record.encode();
    assert_eq!(bytes.len(), fresh().encode().len() + 4);
    assert_eq!(ConnectionRecord::decode(&bytes), Ok(record.clone()));
    assert_eq!(ConnectionRecord::decode(&record.encode_as(1)), Ok(ConnectionRecord { version: 1, ..record }));
    bytes[12] ^= 1;
    assert_eq!(ConnectionRecord::decode(&bytes), Err(RecordError::Malformed { len: bytes.len() }));
}

#[test]
fn two_programs_use_the_newest_common_version() {
    let records = |text: &str| text.parse::<Records>().unwrap();
    for (ours, theirs, written) in [
        ("1", "1", Some(1)),
        ("1,2", "1", Some(1)),   // to a newer program
        ("1", "2,1", Some(1)),   // and back
        ("1,2", "2,1", Some(2)), // now all programs read version 2
        ("1,2,3", "1,2", Some(2)),
        ("1", "1,2", None), // it writes version 2 only, which cannot be read
        ("2", "1", None),
        ("1", "2", None),
    ] {
        let beside = records(ours).beside(&records(theirs));
        assert_eq!(beside.as_ref().map(Records::written), written, "{ours} beside {theirs}");
        // Whatever it writes, it reads the same versions as before.
        let reads = |records: &Records| records.reads.iter().copied().collect::<BTreeSet<_>>();
        assert!(beside.is_none_or(|beside| reads(&beside) == reads(&records(ours))));
    }
}

#[test]
fn record_versions_as_text_end_with_the_written_one() {
    assert_eq!((Records::default().to_string(), Records::default().written()), ("1".into(), 1));
    let records: Records = "2,1".parse().unwrap();
    assert_eq!((records.to_string(), records.written()), ("2,1".into(), 1));
    for text in ["", "one", "1,", "65536"] {
        assert!(text.parse::<Records>().is_err(), "{text:?}");
    }
}
