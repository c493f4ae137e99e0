use super::*;

fn frames(names: &[&[&str]]) -> Vec<Vec<String>> {
    names.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
}

#[test]
fn an_address_is_called_by_the_function_that_is_there() {
    let here = an_address_is_called_by_the_function_that_is_there as *const () as u64;
    let names = names(here + 1);
    assert!(names.iter().any(|name| name.contains("an_address_is_called")), "{names:?}");
    assert_eq!(super::names(1), ["0x1"]);
}

#[test]
fn a_stack_begins_where_the_thread_was_interrupted_and_ends_with_what_it_was_for() {
    let all = [
        &["say_where"][..],
        &["remuda_core::worker::sys::on_abort"],
        &["__restore_rt"],
        &["sleep", "hang"],
        &["handler"],
        &["std::sys::backtrace::__rust_begin_short_backtrace"],
        &["main"],
    ];
    assert_eq!(readable(frames(&all)), ["sleep", "hang", "handler"]);
    let unknown = frames(&[&["0x1"], &["0x2"]]);
    assert_eq!(readable(unknown), ["0x1", "0x2"], "without names nothing is left out");
}

#[test]
fn the_oom_killers_count_is_found_in_both_versions_of_control_groups() {
    assert_eq!(events("0::/a/b\n")[0], "/sys/fs/cgroup/a/b/memory.events");
    assert_eq!(events("0::/\n"), ["/sys/fs/cgroup/memory.events"; 2]);
    let first = "12:cpu,cpuacct:/a\n4:memory:/docker/1\n0::/a\n";
    assert_eq!(events(first)[0], "/sys/fs/cgroup/memory/docker/1/memory.oom_control");
    assert_eq!(events("nonsense"), [""; 0]);
    assert_eq!(kills("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
    assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
    assert_eq!(kills("oom 3\n"), None);
}

#[test]
fn the_last_death_is_remembered_with_its_memory_and_is_strange_unless_workers_end_so() {
    let mut obituaries = Obituaries::new();
    let [one, other] = [1, 2].map(|raw| Pid::from_raw(raw).unwrap());
    for (death, strange) in [
        (Death::Status(0), false),
        (Death::Status(6), false),
        (Death::Status(101), true),
        (Death::Signal(9), true),
    ] {
        obituaries.died(one, death, 3 << 20);
        assert_eq!(obituaries.is_strange(one), strange, "{death}");
        assert_eq!(obituaries.memory(one).peak, Some(3 << 20));
        assert_eq!(obituaries.memory(other).peak, None, "that is another one");
    }
    assert_eq!(obituaries.memory(one).to_string(), ", with 3.0 MiB of memory at most");
}

#[test]
fn stacks_are_those_of_one_worker_and_told_once() {
    let mut obituaries = Obituaries::new();
    let [one, other] = [1, 2].map(|raw| Pid::from_raw(raw).unwrap());
    let stack = |frame| Stack { on_loop: true, since: None, frames: vec![frame] };
    for (pid, frame) in [(one, 1), (other, 2), (one, 3)] {
        obituaries.hear(pid, stack(frame));
    }
    assert_eq!(obituaries.take_stacks(one), [stack(1), stack(3)]);
    assert_eq!(obituaries.take_stacks(one), []);
    assert_eq!(obituaries.take_stacks(other), [stack(2)]);
}
