//! Buffers compared with the simplest implementation.

use proptest::prelude::*;

use super::*;
use crate::config::HIGH_WATER;

fn contents(queue: &OutQueue) -> Vec<u8> {
    let mut out = IoSlices::new();
    queue.transmit(&mut out);
    out.as_slices().iter().flat_map(|slice| slice.to_vec()).collect()
}

/// Takes all bytes out, as many slices at a time as one write gathers.
fn drain(queue: &mut OutQueue) -> Vec<u8> {
    let mut all = Vec::new();
    while !queue.is_empty() {
        let part = contents(queue);
        assert!(!part.is_empty(), "{} bytes are queued and none offered", queue.len());
        queue.consume(part.len());
        all.extend(part);
    }
    all
}

#[test]
fn large_pieces_are_sent_from_where_they_are() {
    let large = Bytes::from(vec![b'l'; SHARE_FROM]);
    let mut queue = OutQueue::default();
    queue.push(b"head");
    queue.push_shared(large.clone());
    queue.push(b"tail");
    let mut out = IoSlices::new();
    queue.transmit(&mut out);
    let places: Vec<_> = out.as_slices().iter().map(|slice| slice.as_ptr()).collect();
    assert_eq!(places.len(), 3);
    assert_eq!(places[1], large.as_ptr());
    assert!(queue.copied.len() == 8, "only small pieces are copied");
}

#[test]
fn small_pieces_are_joined_into_one() {
    let mut queue = OutQueue::default();
    (0..100).for_each(|_| queue.push_shared(Bytes::from_static(b"small")));
    let mut out = IoSlices::new();
    queue.transmit(&mut out);
    assert_eq!((out.as_slices().len(), out.bytes()), (1, 500));
}

#[test]
fn a_stream_that_is_never_quite_sent_keeps_its_storage_bounded() {
    let mut queue = OutQueue::default();
    queue.push(&[0; 100]);
    for _ in 0..20_000 {
        queue.push(&[1; 1000]);
        queue.consume(1000);
        assert_eq!(queue.len(), 100);
    }
    assert!(queue.copied.capacity() <= 2 * HIGH_WATER, "{} bytes", queue.copied.capacity());
}

#[test]
fn an_empty_queue_keeps_little_memory() {
    let mut queue = OutQueue::default();
    queue.push(&vec![0; HIGH_WATER]);
    queue.consume(HIGH_WATER);
    assert!(queue.copied.capacity() <= 2 * KEEP);
}

#[test]
fn a_read_buffer_grows_to_its_bound_and_no_further() {
    let mut buffer = ReadBuffer::default();
    let mut filled = 0;
    while !buffer.is_full() {
        let room = buffer.space().len();
        assert!(room > 0);
        buffer.space().fill(b'r');
        buffer.filled_up(room);
        filled += room;
    }
    assert_eq!((filled, buffer.space().len()), (READ_BUFFER_MAX, 0));
    buffer.consume(1);
    assert_eq!(buffer.space().len(), 1, "processed bytes make room");
    buffer.consume(READ_BUFFER_MAX - 1);
    buffer.shrink();
    assert_eq!(buffer.space().len(), READ_BUFFER);
}

#[derive(Clone, Debug)]
enum Operation {
    Push(usize),
    Shared(usize),
    Sent(prop::sample::Index),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (0..3000_usize).prop_map(Operation::Push),
        (0..3 * SHARE_FROM).prop_map(Operation::Shared),
        any::<prop::sample::Index>().prop_map(Operation::Sent),
        any::<prop::sample::Index>().prop_map(Operation::Sent),
    ]
}

proptest! {
    #[test]
    fn a_queue_returns_its_bytes_in_order(operations in prop::collection::vec(operation(), 0..60)) {
        let (mut queue, mut model) = (OutQueue::default(), Vec::new());
        let mut next = 0_u8;
        let mut some = |n| { next = next.wrapping_add(1); vec![next; n] };
        for operation in operations {
            match operation {
                Operation::Push(n) => { let bytes = some(n); queue.push(&bytes); model.extend(bytes); }
                Operation::Shared(n) => { let bytes = some(n); queue.push_shared(bytes.clone().into()); model.extend(bytes); }
                Operation::Sent(n) => {
                    let offered = contents(&queue);
                    prop_assert!(model.starts_with(&offered));
                    let n = n.index(offered.len() + 1);
                    queue.consume(n);
                    model.drain(..n);
                }
            }
            prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
        }
        prop_assert_eq!(drain(&mut queue), model);
    }

    #[test]
    fn a_read_buffer_returns_its_bytes(sizes in prop::collection::vec((1..9000_usize, 0..9000_usize), 1..60)) {
        let (mut buffer, mut model, mut next) = (ReadBuffer::default(), Vec::new(), 0_u8);
        for (read, used) in sizes {
            let n = buffer.space().len().min(read);
            next = next.wrapping_add(1);
            buffer.space()[..n].fill(next);
            buffer.filled_up(n);
            model.extend(vec![next; n]);
            let used = used.min(model.len());
            buffer.consume(used);
            model.drain(..used);
            prop_assert_eq!(buffer.filled(), &model);
            prop_assert!(model.len() <= READ_BUFFER_MAX);
        }
    }
}
