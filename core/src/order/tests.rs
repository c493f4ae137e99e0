use super::*;

fn orders() -> Vec<Order> {
    let drain =
        Drain::new(Reason::Reload, Time::from_nanos(7), Time::from_nanos(u64::MAX - 1)).with_receiver();
    let lameduck = Drain { phase: Phase::Lameduck, ..drain };
    let drains = [(drain, PolicyId::Reload), (lameduck, PolicyId::Stop)];
    let drains = drains.map(|(drain, policy)| Order::Drain { drain, policy });
    let levels = Level::ALL.map(Order::LogLevel);
    drains.into_iter().chain([Order::BacklogEnd, Order::ReopenLogs]).chain(levels).collect()
}

#[test]
fn encode_then_decode_is_identity() {
    for order in orders() {
        assert_eq!(Order::decode(&order.encode()), Ok(order));
    }
    let failed = Report::BootFailed { status: 4, message: "no such module".into() };
    let recycle = Report::Recycle { reason: Reason::RecycleRequests };
    let stack =
        |since, frames| Report::Stack(Stack { on_loop: since, since: since.then_some(Time::MAX), frames });
    let stacks = [stack(true, (1..=FRAMES_MAX as u64).collect()), stack(false, Vec::new())];
    for report in
        [Report::Ready, failed, recycle, Report::Draining, Report::ReopenLogs].into_iter().chain(stacks)
    {
        assert!(report.encode().len() <= MESSAGE_MAX);
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
fn frames_beyond_a_message_are_dropped_and_half_a_frame_refused() {
    let mut out = [0; MESSAGE_MAX];
    let mut bytes = encode_stack(true, None, &[7; FRAMES_MAX + 1], &mut out).to_vec();
    let frames = vec![7; FRAMES_MAX];
    assert_eq!(Report::decode(&bytes), Ok(Report::Stack(Stack { on_loop: true, since: None, frames })));
    bytes.pop();
    assert!(Report::decode(&bytes).is_err());
    assert!(Report::decode(&[VERSION, STACK]).is_err());
    assert!(Report::decode(&[&[VERSION, STACK, 2][..], &[0; 8]].concat()).is_err());
}

#[test]
fn a_report_without_a_known_reason_is_refused() {
    for body in [&[][..], &[99], &[4, 4]] {
        let bytes = [&[VERSION, RECYCLE], body].concat();
        assert_eq!(Report::decode(&bytes), Err(DecodeError::Malformed { len: bytes.len() }));
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
