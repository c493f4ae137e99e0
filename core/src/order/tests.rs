use super::*;

fn orders() -> Vec<Order> {
    let drain =
        Drain::new(Reason::Reload, Time::from_nanos(7), Time::from_nanos(u64::MAX - 1)).with_receiver();
    vec![Order::BacklogEnd, Order::Drain { drain, policy: PolicyId::Reload }]
}

#[test]
fn encode_then_decode_is_identity() {
    for order in orders() {
        assert_eq!(Order::decode(&order.encode()), Ok(order));
    }
    for report in [Report::Ready, Report::BootFailed { status: 4, message: "no such module".into() }] {
        assert_eq!(Report::decode(&report.encode()), Ok(report));
    }
}

#[test]
fn every_prefix_and_every_extension_of_an_order_is_refused() {
    for order in orders() {
        let mut bytes = order.encode();
        for end in 0..bytes.len() {
            assert!(Order::decode(&bytes[..end]).is_err(), "{order:?} cut at {end}");
        }
        bytes.push(0);
        assert!(Order::decode(&bytes).is_err(), "{order:?} with a byte too many");
    }
}

#[test]
fn another_version_is_refused_by_name() {
    assert_eq!(Order::decode(&[9, 2]), Err(DecodeError::Version { found: 9 }));
    assert_eq!(Order::decode(&[VERSION, 99]), Err(DecodeError::Kind { kind: 99 }));
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let report = Report::BootFailed { status: 4, message: "ä".repeat(MESSAGE_MAX) };
    let bytes = report.encode();
    assert!(bytes.len() <= MESSAGE_MAX);
    let Ok(Report::BootFailed { message, .. }) = Report::decode(&bytes) else { panic!("decodes") };
    assert!(message.chars().all(|c| c == 'ä') && message.len() > MESSAGE_MAX - 8);
}
