use super::*;

#[test]
fn oom_kills_are_read_in_both_versions_of_control_groups() {
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
fn the_last_death_keeps_its_memory_and_may_be_unexpected() {
    let mut reports = CrashReports::new();
    let [one, other] = [1, 2].map(|raw| Pid::from_raw(raw).unwrap());
    for (death, strange) in [
        (Death::Status(0), false),
        (Death::Status(6), false),
        (Death::Status(101), true),
        (Death::Signal(9), true),
    ] {
        reports.died(one, death, 3 << 20);
        assert_eq!(reports.is_strange(one), strange, "{death}");
        assert_eq!(reports.memory(one).peak, Some(3 << 20));
        assert_eq!(reports.memory(other).peak, None, "that is another one");
    }
    assert_eq!(reports.memory(one).to_string(), ", with 3.0 MiB of memory at most");
}

#[test]
fn stacks_belong_to_one_worker_and_are_taken_once() {
    let mut reports = CrashReports::new();
    let [one, other] = [1, 2].map(|raw| Pid::from_raw(raw).unwrap());
    let stack = |frame| Stack { on_loop: true, since: None, frames: vec![frame] };
    for (pid, frame) in [(one, 1), (other, 2), (one, 3)] {
        reports.hear(pid, stack(frame));
    }
    assert_eq!(reports.take_stacks(one), [stack(1), stack(3)]);
    assert_eq!(reports.take_stacks(one), []);
    assert_eq!(reports.take_stacks(other), [stack(2)]);
}
