use super::*;

const MS: Duration = Duration::from_millis(1);

const START: Time = Time::from_nanos(1_000_000_000);

/// A handshake of client `n`.
fn of(client: u8) -> Handshake {
    [client; 48]
}

/// Plays a wait with the open handshakes of each look. Returns its end, the number of looks, and
/// the handshakes left.
fn play(mut wait: Wait, open: impl Fn(Duration) -> io::Result<Vec<Handshake>>) -> (Duration, usize, usize) {
    let (mut now, mut looks) = (START, 0);
    loop {
        wait.look(now, || {
            looks += 1;
            open(now - START)
        });
        if wait.is_over(now) {
            return (now - START, looks, wait.left());
        }
        assert!(wait.deadline() > now, "it does not spin");
        now = wait.deadline();
    }
}

#[test]
fn without_open_handshakes_the_wait_is_the_floor_and_one_look() {
    assert_eq!(play(Wait::new(START), |_| Ok(vec![])), (FLOOR + LAST, 1, 0));
}

#[test]
fn the_wait_ends_soon_after_the_last_handshake() {
    for far in [3, 10, 50, 100, 300, 499] {
        let (took, looks, left) = play(Wait::new(START), |at| {
            Ok(if at < far * MS {
                vec![of(1), of(2)]
            } else if at < 2 * MS {
                vec![of(3)]
            } else {
                vec![]
            })
        });
        assert!((far * MS..=far * MS + (far * MS / 8).max(2 * MS) + LAST).contains(&took), "{far}: {took:?}");
        assert!(looks <= 70, "{far}: {looks} looks");
        assert_eq!(left, 0);
    }
}

#[test]
fn handshakes_that_never_complete_are_abandoned_at_the_cap() {
    let flood = || (0..200).map(of).collect::<Vec<_>>();
    let (took, _, left) = play(Wait::new(START), |_| Ok(flood()));
    assert_eq!((took, left), (CAP, 200));
    // A handshake that completes at the very end counts as completed.
    let (took, _, left) = play(Wait::new(START), |at| Ok(flood().split_off(usize::from(at >= CAP))));
    assert_eq!((took, left), (CAP, 199));
}

#[test]
fn handshakes_that_begin_later_are_not_waited_for() {
    // They belong to another listener at the address, or to a client that no gate stops.
    let (took, _, left) = play(Wait::new(START), |at| {
        let first = if at < 20 * MS { vec![of(1)] } else { vec![] };
        Ok([first, vec![of(2 + (at.as_millis() % 250) as u8)]].concat())
    });
    assert!(took < 30 * MS, "{took:?}");
    assert_eq!(left, 0);
}

#[test]
fn without_a_list_of_handshakes_the_wait_is_brief() {
    let blind = |_| Err(io::ErrorKind::Unsupported.into());
    assert_eq!(play(Wait::new(START), blind), (BRIEF, 1, 0));
    let open = |_| Ok(vec![of(1)]);
    // A sandbox may forbid the lookup during the wait.
    let (took, ..) = play(Wait::new(START), |at| if at < 100 * MS { open(at) } else { blind(at) });
    assert!((100 * MS..115 * MS).contains(&took), "{took:?}");
}

#[test]
fn d11_a_hurried_stop_or_a_missing_gate_shortens_the_wait() {
    let mut wait = Wait::new(START);
    wait.shorten();
    let (took, _, left) = play(wait, |_| Ok(vec![of(1)]));
    assert_eq!((took, left), (BRIEF, 1));

    let mut wait = Wait::new(START);
    let later = START + 100 * MS;
    wait.look(later, || Ok(vec![of(1)]));
    assert!(!wait.is_over(later));
    wait.shorten();
    assert!(wait.is_over(later) && wait.deadline() <= later);
    wait.look(later, || Ok(vec![]));
    assert_eq!(wait.left(), 0, "one look more says what is left");
    wait.shorten();
    assert!(wait.is_over(later));
}
