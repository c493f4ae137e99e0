//! The whole table: every input in every state.

use super::{End, Fate, Input as I, Receiving as R, Sending as S, fate, next};
use crate::machine::CloseReason;
use crate::time::Time;

const RECEIVING: [R; 4] = [R::Head, R::Body, R::Discard, R::Done];
const SENDING: [S; 3] = [S::Quiet, S::Awaiting, S::Body];
const INPUTS: [I; 7] = [
    I::Request { body: true },
    I::Request { body: false },
    I::BodyEnd,
    I::Discard,
    I::ResponseHead,
    I::ResponseEnd,
    I::Upgrade,
];

type State = (R, S);

/// The transitions of the states that a connection can be in. All others are invalid.
const LEGAL: [(State, I, State); 16] = [
    ((R::Head, S::Quiet), I::Request { body: true }, (R::Body, S::Awaiting)),
    ((R::Head, S::Quiet), I::Request { body: false }, (R::Done, S::Awaiting)),
    ((R::Body, S::Awaiting), I::BodyEnd, (R::Done, S::Awaiting)),
    ((R::Body, S::Awaiting), I::ResponseHead, (R::Body, S::Body)),
    ((R::Body, S::Awaiting), I::Discard, (R::Discard, S::Awaiting)),
    ((R::Body, S::Body), I::BodyEnd, (R::Done, S::Body)),
    ((R::Body, S::Body), I::Discard, (R::Discard, S::Body)),
    ((R::Body, S::Body), I::ResponseEnd, (R::Discard, S::Quiet)),
    ((R::Discard, S::Quiet), I::BodyEnd, (R::Head, S::Quiet)),
    ((R::Discard, S::Awaiting), I::BodyEnd, (R::Done, S::Awaiting)),
    ((R::Discard, S::Awaiting), I::ResponseHead, (R::Discard, S::Body)),
    ((R::Discard, S::Body), I::BodyEnd, (R::Done, S::Body)),
    ((R::Discard, S::Body), I::ResponseEnd, (R::Discard, S::Quiet)),
    ((R::Done, S::Awaiting), I::ResponseHead, (R::Done, S::Body)),
    ((R::Done, S::Awaiting), I::Upgrade, (R::Body, S::Body)),
    ((R::Done, S::Body), I::ResponseEnd, (R::Head, S::Quiet)),
];

/// The states that a connection can be in: those reached from the first by inputs and by the
/// decision to discard a body.
fn reachable() -> Vec<State> {
    let mut states = vec![(R::Head, S::Quiet)];
    let mut at = 0;
    while let Some(&state) = states.get(at) {
        for next in INPUTS.into_iter().filter_map(|input| next(state, input)) {
            if !states.contains(&next) {
                states.push(next);
            }
        }
        at += 1;
    }
    states
}

#[test]
fn every_transition_is_in_the_diagram() {
    for state in reachable() {
        for input in INPUTS {
            let expected = LEGAL.iter().find(|row| (row.0, row.1) == (state, input)).map(|row| row.2);
            assert_eq!(next(state, input), expected, "{input:?} in {state:?}");
        }
    }
}

#[test]
fn a_response_without_a_request_cannot_be_reached() {
    let states = reachable();
    let all = RECEIVING.into_iter().flat_map(|receiving| SENDING.map(|sending| (receiving, sending)));
    let unreachable: Vec<_> = all.filter(|state| !states.contains(state)).collect();
    let impossible = [(R::Head, S::Awaiting), (R::Head, S::Body), (R::Body, S::Quiet), (R::Done, S::Quiet)];
    assert_eq!(unreachable, impossible);
}

#[test]
fn every_reachable_state_leads_back_to_the_first() {
    for start in reachable() {
        let mut seen = vec![start];
        let mut at = 0;
        while let Some(&state) = seen.get(at) {
            for next in INPUTS.into_iter().filter_map(|input| next(state, input)) {
                if !seen.contains(&next) {
                    seen.push(next);
                }
            }
            at += 1;
        }
        assert!(seen.contains(&(R::Head, S::Quiet)), "{start:?} is a dead end");
    }
}

/// Every input in every fate. Only a cut replaces the reason, and an end is final.
#[test]
fn a_fate_only_moves_towards_its_end() {
    let (first, later, until) = (CloseReason::Finished, CloseReason::PeerAborted, Time::from_nanos(7));
    let (flushing, ended) = (Fate::Flushing(first), Fate::Ended(first));
    let lingering = |left| Fate::Lingering { reason: first, until, left };
    let half_close = End::HalfClose { until, left: 10 };
    for (from, input, to) in [
        (Fate::Open, End::Flush(first), Some(flushing)),
        (Fate::Open, half_close, None),
        (Fate::Open, End::Discarded(1), None),
        (Fate::Open, End::Close, None),
        (Fate::Open, End::PeerClosed, None),
        (Fate::Open, End::Cut(first), Some(ended)),
        (flushing, End::Flush(later), None),
        (flushing, half_close, Some(lingering(10))),
        (flushing, End::Discarded(1), None),
        (flushing, End::Close, Some(ended)),
        (flushing, End::PeerClosed, None),
        (flushing, End::Cut(later), Some(Fate::Ended(later))),
        (lingering(10), End::Flush(later), None),
        (lingering(10), half_close, None),
        (lingering(10), End::Discarded(9), Some(lingering(1))),
        (lingering(10), End::Discarded(10), Some(ended)),
        (lingering(10), End::Close, None),
        (lingering(10), End::PeerClosed, Some(ended)),
        (lingering(10), End::Cut(later), Some(Fate::Ended(later))),
        (ended, End::Flush(later), None),
        (ended, half_close, None),
        (ended, End::Discarded(1), None),
        (ended, End::Close, None),
        (ended, End::PeerClosed, None),
        (ended, End::Cut(later), None),
    ] {
        assert_eq!(fate(from, input), to, "{input:?} in {from:?}");
    }
}
