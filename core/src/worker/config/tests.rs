use super::*;

#[test]
fn d15_a_quota_lies_between_the_least_and_the_jitter() {
    let quota = |max_requests, max_requests_jitter, draw| {
        WorkerConfig { max_requests, max_requests_jitter, ..WorkerConfig::default() }.quota(draw)
    };
    for draw in [0, 1 << 31, u32::MAX] {
        assert_eq!(quota(0, Jitter::Count(100), draw), 0, "never");
        assert_eq!(quota(50, Jitter::Count(0), draw), 50);
    }
    let spread = |jitter| [0, 1 << 31, u32::MAX].map(|draw| quota(1000, jitter, draw));
    assert_eq!(spread(Jitter::default()), [1000, 1050, 1100]);
    assert_eq!(spread(Jitter::Count(9)), [1000, 1005, 1009]);
    assert_eq!(quota(3, Jitter::default(), u32::MAX), 4, "there always is some");
    assert_eq!(quota(u64::MAX, Jitter::Count(u64::MAX), u32::MAX), u64::MAX);
}
