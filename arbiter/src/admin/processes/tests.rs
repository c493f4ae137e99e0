use std::process::Command;

use super::*;

#[test]
fn a_name_with_any_character_does_not_shift_the_fields() {
    let numbers: Vec<_> = (4..=52).map(|n| n.to_string()).collect();
    let line = format!("7 (a) b (c) S {}\n", numbers.join(" "));
    let expected = Stat { ticks: 14 + 15 + 16 + 17, start: 22, space: 23, resident: 24 * page_size() as u64 };
    assert_eq!(Stat::read(&line), Some(expected));
    for broken in ["", "7 (a) S 1 2 3", "7 a S"] {
        assert_eq!(Stat::read(broken), None, "{broken}");
    }
}

#[test]
fn processes_are_added_up_and_processor_time_never_falls() {
    let me = std::process::id() as i32;
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let processes = Processes::new(me);
    let alone = processes.usage([].into_iter()).unwrap();
    let both = processes.usage([child.id() as i32].into_iter()).unwrap();
    assert!(both.space > alone.space && alone.resident > 100_000, "{alone:?} {both:?}");
    let Descriptors { open, limit } = alone.descriptors.unwrap();
    assert!((3..limit).contains(&open), "{open} of {limit}");
    assert!(alone.started.is_some_and(|at| at > 1_000_000_000.0), "{alone:?}");

    let told = 1_000_000_000;
    processes.told.store(told, Ordering::Relaxed);
    let cpu = processes.usage([].into_iter()).unwrap().cpu;
    assert_eq!(cpu, told as f64 / clock_ticks_per_second() as f64);
    assert_eq!(Processes::new(-1).usage([me].into_iter()), None, "there is no such arbiter");
    child.kill().unwrap();
    child.wait().unwrap();
}
