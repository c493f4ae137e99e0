use crate::Spread;
use crate::measure::name_and_calls;

#[test]
fn a_spread_has_the_middle_and_both_ends() {
    assert_eq!(Spread::of([3.0, 1.0, 2.0].into_iter()).to_string(), "  2.00 (1.00 to 3.00)");
}

#[test]
fn a_line_of_strace_is_read_with_errors_and_without() {
    let with = " 48.07    0.063741           3     16010        10 recvfrom";
    let without = "  0.97    0.001290           2       514           epoll_wait";
    assert_eq!(name_and_calls(with), Some(("recvfrom", 16010.0)));
    assert_eq!(name_and_calls(without), Some(("epoll_wait", 514.0)));
    assert_eq!(name_and_calls("% time     seconds  usecs/call     calls    errors syscall"), None);
    assert_eq!(name_and_calls("------ ----------- ----------- --------- --------- ----------------"), None);
}
