use std::net::{SocketAddr, TcpListener, TcpStream};

use super::*;

fn shared() -> (Listeners, SocketAddr) {
    let any = Bind::Inet(([127, 0, 0, 1], 0).into());
    let mut listeners = Listeners::default();
    listeners.choose(&[any], 1024, (None, None)).unwrap();
    let Bound::Inet(addr) = listeners.tcp().next().unwrap().bound else { panic!("not a TCP listener") };
    (listeners, addr)
}

/// The number of connections in the queues of a slot.
fn waiting(slots: &PerSlotListeners, shared: &Listeners, slot: u16) -> usize {
    slots.of(slot, shared).map(|listener| std::iter::from_fn(|| listener.accept().unwrap()).count()).sum()
}

#[test]
fn each_slot_has_its_share_of_the_connections_and_a_queue_of_its_own() {
    let (mut shared, addr) = shared();
    let mut slots = PerSlotListeners::new(true, 1, 1024);
    for slot in [1, 2, 2] {
        slots.open(slot, &mut shared).unwrap();
    }
    let clients: Vec<_> = (0..300).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let shares = [0, 1, 2].map(|slot| waiting(&slots, &shared, slot));
    assert_eq!(shares.iter().sum::<usize>(), clients.len());
    assert!(shares.iter().all(|share| *share > 30), "{shares:?}");
}

#[test]
fn a_released_slot_gets_no_more_connections() {
    let (mut shared, addr) = shared();
    let mut slots = PerSlotListeners::new(true, 1, 1024);
    slots.open(1, &mut shared).unwrap();
    slots.release(1).iter().for_each(end);
    let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(addr).unwrap()).collect();
    assert_eq!(waiting(&slots, &shared, 0), clients.len());
}

#[test]
fn a_worker_gets_the_listeners_of_its_slot_and_shared_ones() {
    let dir = tempfile::tempdir().unwrap();
    let binds = [Bind::Inet(([127, 0, 0, 1], 0).into()), Bind::Unix(dir.path().join("app.sock"))];
    for slot in [0, 1] {
        let mut shared = Listeners::default();
        let chosen = shared.choose(&binds, 16, (None, None)).unwrap();
        let mut slots = PerSlotListeners::new(true, 1, 16);
        (0..3).try_for_each(|slot| slots.open(slot, &mut shared)).unwrap();
        let mut indices: Vec<_> =
            slots.into_set(slot, shared, &chosen).iter().map(|listener| listener.index).collect();
        indices.sort_unstable();
        assert_eq!(indices, [0, 1], "slot {slot}");
        std::fs::remove_file(dir.path().join("app.sock")).unwrap();
    }
}

#[test]
fn slots_share_listeners_by_default() {
    let (mut shared, addr) = shared();
    let mut slots = PerSlotListeners::new(false, 1, 1024);
    slots.open(1, &mut shared).unwrap();
    let _client = TcpStream::connect(addr).unwrap();
    assert_eq!(waiting(&slots, &shared, 1), 0);
    assert_eq!(waiting(&slots, &shared, 0), 1);
}

#[test]
fn no_server_joins_another_by_mistake() {
    let (mut shared, addr) = shared();
    let mut slots = PerSlotListeners::new(true, 1, 16);
    slots.open(1, &mut shared).unwrap();
    assert!(TcpListener::bind(addr).is_err());
    let again = Listeners::default().choose(&[Bind::Inet(addr)], 16, (None, None)).unwrap_err();
    assert!(matches!(again, BindError::InUse { .. }), "{again}");
}

#[test]
fn a_reload_opens_and_releases_addresses_in_all_slots() {
    let any = Bind::Inet(([127, 0, 0, 1], 0).into());
    let (mut shared, stays) = shared();
    let mut slots = PerSlotListeners::new(true, 3, 1024);
    slots.open_all(&mut shared).unwrap();
    let wanted = [Bind::Inet(stays), any];
    let added = shared.choose(&wanted, 1024, (None, None)).unwrap();
    slots.open_all(&mut shared).unwrap();
    let count =
        |slots: &PerSlotListeners, indices: &[u16], shared: &Listeners| slots.at(indices, shared).count();
    assert_eq!(count(&slots, &added.all, &shared), 6);
    slots.drop_new(&added);
    shared.drop_new(&added);
    assert_eq!(count(&slots, &added.all, &shared), 3, "it was not to be");
    let added = shared.choose(&wanted, 1024, (None, None)).unwrap();
    slots.open_all(&mut shared).unwrap();
    let kept = &added.new;
    assert_eq!((slots.release_others(kept).len(), shared.release_others(kept).len()), (2, 1));
    let last = ListenerSet { all: kept.clone(), new: Vec::new() };
    assert_eq!(count(&slots, &added.all, &shared), 3);
    assert_eq!(slots.into_set(2, shared, &last).len(), 1);
}

#[test]
fn a_worker_of_an_older_generation_gets_only_its_listeners() {
    let any = Bind::Inet(([127, 0, 0, 1], 0).into());
    let mut shared = Listeners::default();
    let old = shared.choose(std::slice::from_ref(&any), 16, (None, None)).unwrap();
    shared.choose(&[any.clone(), any], 16, (None, None)).unwrap();
    let mut slots = PerSlotListeners::new(true, 2, 16);
    slots.open_all(&mut shared).unwrap();
    let indices: Vec<_> = slots.into_set(1, shared, &old).iter().map(|listener| listener.index).collect();
    assert_eq!(indices, old.all);
}
