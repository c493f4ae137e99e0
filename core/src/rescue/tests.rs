use std::cell::RefCell;

use super::*;

type Observer = Box<dyn Fn(&EntryMemory)>;

thread_local! {
    /// Sees each entry of this thread before and after each store.
    pub(crate) static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
}

fn memory() -> &'static EntryMemory {
    Box::leak(Box::default())
}

fn idle(served: u32, since: u64) -> Standing {
    Standing::Idle { served, since: Time::from_nanos(since) }
}

#[test]
fn a_connection_is_left_before_a_read_and_entered_after_the_last_write() {
    let memory = memory();
    let entry = Entry::new(memory);
    assert!(!memory.is_taken());
    entry.describe(Origin::new(3, Peer::Unix, 9), Time::from_nanos(5), None, Some(ByteCounts::default()));
    assert!(!memory.is_taken(), "a description alone publishes nothing");
    entry.publish(Standing::Fresh);
    assert_eq!((memory.found().standing, memory.found().before), (Some(Standing::Fresh), None));

    entry.before_read();
    let found = memory.found();
    assert_eq!((found.standing, found.before), (Some(Standing::Unanswered), Some(Standing::Fresh)));
    entry.after_read(40);
    assert_eq!((memory.found().standing, memory.found().read), (Some(Standing::Unanswered), 40));

    entry.call(0, true);
    entry.before_write(70, || Some(idle(1, 50)));
    let found = memory.found();
    assert_eq!((found.standing, found.before), (Some(Standing::Begun), None));
    assert_eq!((found.response, found.rest, found.after), (0, 70, idle(1, 50)), "the kernel knows");
    entry.after_write(70, || idle(1, 50));
    let found = memory.found();
    assert_eq!((found.standing, found.before, found.written), (Some(idle(1, 50)), None, 70));

    entry.before_read();
    assert_eq!(memory.found().before, Some(idle(1, 50)));
    entry.rest(|| idle(1, 50));
    assert_eq!(memory.found().before, None, "there was nothing to read");
    entry.call(70, false);
    assert_eq!(
        (memory.found().response, memory.found().rest),
        (70, u64::MAX),
        "those of the last one are gone"
    );
    entry.clear();
    assert!(!memory.is_taken());
}

#[test]
fn bytes_that_were_not_looked_at_yet_may_be_a_request() {
    let memory = memory();
    let entry = Entry::new(memory);
    entry.publish(Standing::Head);
    entry.after_read(1);
    assert_eq!(memory.found().standing, Some(Standing::Unanswered));
    entry.after_write(1, || Standing::Head);
    assert_eq!(memory.found().standing, Some(Standing::Unanswered));
    entry.rest(|| Standing::Head);
    assert_eq!(memory.found().standing, Some(Standing::Head));
}

#[test]
fn a_response_that_has_begun_stays_so_through_further_writes() {
    let memory = memory();
    let entry = Entry::new(memory);
    for standing in [Standing::Begun, idle(1, 1), Standing::Head] {
        entry.publish(standing);
        entry.before_write(9, || None);
        assert_eq!((memory.found().standing, memory.found().before), (Some(Standing::Begun), None));
        assert_eq!(memory.found().rest, u64::MAX);
    }
    entry.publish(Standing::Closing);
    entry.before_write(9, || panic!("nothing is asked"));
    entry.before_read();
    assert_eq!((memory.found().standing, memory.found().before), (Some(Standing::Closing), None));
}

#[test]
fn a_record_is_that_of_the_connection() {
    let addresses = ["10.0.0.7:80", "[fe80::1%3]:443", "[2001:db8::9]:1"];
    let peers = addresses.map(|text| Some(Peer::Inet(text.parse().unwrap())));
    for (peer, proxied) in [(Peer::Unix, None), (peers[0].unwrap(), peers[1]), (peers[2].unwrap(), peers[0])]
    {
        let memory = memory();
        let entry = Entry::new(memory);
        entry.describe(Origin::new(2, peer, 77), Time::from_nanos(11), None, None);
        proxied.into_iter().for_each(|client| entry.name_client(client));
        entry.publish(Standing::Fresh);
        let fresh = ConnectionRecord {
            handed: Some(Time::from_nanos(90)),
            proxied,
            ..ConnectionRecord::fresh(Origin::new(2, peer, 77), Time::from_nanos(11))
        };
        assert_eq!(memory.record(Time::from_nanos(90)), fresh);
        entry.publish(idle(4, 60));
        let record = ConnectionRecord { served: 4, idle_since: Some(Time::from_nanos(60)), ..fresh };
        assert_eq!(memory.record(Time::from_nanos(90)), record);
        let mut bytes = [0; ConnectionRecord::HEAD_MAX];
        let len = record.encode_into(ConnectionRecord::VERSION, &mut bytes);
        assert_eq!(ConnectionRecord::decode(&bytes[..len]), Ok(record));
        assert!(!memory.found().is_counted, "another worker has read and written before");
    }
}

#[test]
fn without_an_entry_nothing_is_published() {
    let entry = Entry::NONE;
    entry.describe(Origin::new(0, Peer::Unix, 0), Time::ZERO, None, Some(ByteCounts::default()));
    entry.publish(Standing::Fresh);
    entry.rest(|| panic!("nothing is asked"));
    entry.after_write(1, || panic!("nothing is asked"));
    entry.clear();
}
