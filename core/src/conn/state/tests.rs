//! The whole table: every input in every state.

use super::{Input as I, Receiving as R, Sending as S, next};

const RECEIVING: [R; 4] = [R::Head, R::Body, R::Discard, R::Done];
const SENDING: [S; 3] = [S::Quiet, S::Awaiting, S::Body];
const INPUTS: [I; 6] = [
    I::Request { body: true },
    I::Request { body: false },
    I::BodyEnd,
    I::ResponseHead,
    I::ResponseEnd,
    I::Upgrade,
];

type State = (R, S);

/// The transitions of the states that a connection can be in; all others are mistakes.
const LEGAL: [(State, I, State); 14] = [
    ((R::Head, S::Quiet), I::Request { body: true }, (R::Body, S::Awaiting)),
    ((R::Head, S::Quiet), I::Request { body: false }, (R::Done, S::Awaiting)),
    ((R::Body, S::Awaiting), I::BodyEnd, (R::Done, S::Awaiting)),
    ((R::Body, S::Awaiting), I::ResponseHead, (R::Body, S::Body)),
    ((R::Body, S::Body), I::BodyEnd, (R::Done, S::Body)),
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

/// The states that a connection can be in: what inputs, and the decision to discard a body, lead to from the first.
fn reachable() -> Vec<State> {
    let mut states = vec![(R::Head, S::Quiet)];
    let mut at = 0;
    while let Some(&state) = states.get(at) {
        let discarded = (state.0 == R::Body).then_some((R::Discard, state.1));
        for next in INPUTS.into_iter().filter_map(|input| next(state, input)).chain(discarded) {
            if !states.contains(&next) {
                states.push(next);
            }
        }
        at += 1;
    }
    states
}

#[test]
fn every_input_leads_where_the_picture_says_or_nowhere() {
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
