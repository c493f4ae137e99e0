use proptest::prelude::*;

use super::*;

fn read(line: &str) -> Result<Request, Malformed> {
    parse(line.as_bytes())
}

fn plan(command: Command, wait: bool) -> Result<Request, Malformed> {
    Ok(Request::Plan { command, wait })
}

#[test]
fn each_command_is_parsed() {
    assert_eq!(read(r#"{"v":1,"command":"status"}"#), Ok(Request::Status));
    let scale = |workers: &str| read(&format!(r#"{{"v":1,"command":"scale","workers":"{workers}"}}"#));
    assert_eq!(scale("+1"), plan(Command::Scale(Scale::By(1)), true));
    assert_eq!(scale("-12"), plan(Command::Scale(Scale::By(-12)), true));
    assert_eq!(scale("1024"), plan(Command::Scale(Scale::To(1024)), true));
    let recycle = |rest: &str| read(&format!(r#"{{"v":1,"command":"recycle"{rest}}}"#));
    assert_eq!(recycle(""), plan(Command::Recycle(None), true));
    assert_eq!(recycle(r#","pid":7,"wait":false"#), plan(Command::Recycle(Pid::from_raw(7)), false));
    assert_eq!(read(r#"{"v":1,"command":"stop"}"#), plan(Command::Stop { quick: false }, true));
    assert_eq!(read(r#"{"v":1,"command":"reload","wait":false}"#), plan(Command::Reload, false));
    let quick = r#" {"command":"stop", "quick":true, "v":1} "#;
    assert_eq!(read(quick), plan(Command::Stop { quick: true }, true));
    assert_eq!(read(r#"{"v":1,"command":"log-level","level":"warn"}"#), Ok(Request::LogLevel(Level::Warn)));
    assert_eq!(read(r#"{"v":1,"command":"drain"}"#), plan(Command::Drain, true));
    assert_eq!(read(r#"{"v":1,"command":"resume"}"#), plan(Command::Resume, true));
    assert_eq!(read(r#"{"v":1,"command":"upgrade","wait":false}"#), plan(Command::Upgrade, false));
}

#[test]
fn an_invalid_request_is_refused_with_a_reason() {
    let why = |line: &str| read(line).unwrap_err().to_string();
    assert_eq!(why(r#"{"v":2,"command":"status","new":1}"#), "unsupported version 2, expected 1");
    assert!(why(r#"{"command":"status"}"#).starts_with("not a request: missing field `v`"));
    assert!(why(r#"{"v":1,"command":"status","colour":1}"#).contains("unknown field `colour`"));
    assert!(why(r#"{"v":1,"command":"dance"}"#).starts_with(r#"unknown command "dance"; allowed: status"#));
    assert_eq!(why(r#"{"v":1,"command":"status","pid":1}"#), "status takes no pid");
    assert_eq!(why(r#"{"v":1,"command":"scale","workers":"1","wait":true}"#), "scale takes no wait");
    for line in [
        "",
        "status",
        "[]",
        "1",
        r#"{"v":1"#,
        r#"{"v":1,"v":1,"command":"status"}"#,
        "{\"v\":1,\"command\":\"\u{0}",
    ] {
        assert!(why(line).starts_with("not a request: "), "{line}");
    }
}

#[test]
fn values_out_of_range_are_refused() {
    for workers in ["", "0", "+", "-0", "1025", "++1", "1.5", "-", " 1", "99999999999", "٣"] {
        let line = format!(r#"{{"v":1,"command":"scale","workers":"{workers}"}}"#);
        assert_eq!(read(&line), Err(Malformed::Value(WORKERS)), "{workers}");
    }
    assert_eq!(read(r#"{"v":1,"command":"scale"}"#), Err(Malformed::Value(WORKERS)));
    for pid in ["0", "-1"] {
        let line = format!(r#"{{"v":1,"command":"recycle","pid":{pid}}}"#);
        assert_eq!(read(&line), Err(Malformed::Value(PIDS)));
    }
    assert_eq!(read(r#"{"v":1,"command":"log-level","level":"loud"}"#), Err(Malformed::Value(LEVELS)));
    assert_eq!(read(r#"{"v":1,"command":"log-level"}"#), Err(Malformed::Value(LEVELS)));
}

#[test]
fn answers_report_success_or_failure() {
    assert_eq!(answer(Ok(Done::Scaled { workers: 3 })).to_string(), r#"{"ok":true,"v":1,"workers":3}"#);
    let pid = Pid::from_raw(7).expect("it is above zero");
    assert_eq!(answer(Ok(Done::Upgraded { pid })).to_string(), r#"{"ok":true,"pid":7,"v":1}"#);
    let stopped = answer(Ok(Done::Stopped { status: 6, cut: true })).to_string();
    assert_eq!(stopped, r#"{"cut":true,"ok":true,"status":6,"v":1}"#);
    assert_eq!(
        answer(Err(Refused::TooFew)).to_string(),
        r#"{"error":"1 worker is the minimum","ok":false,"v":1}"#
    );
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "{",
        "}",
        "\"v\"",
        ":",
        ",",
        "1",
        "2",
        "-1",
        "\"command\"",
        "\"status\"",
        "\"scale\"",
        "\"workers\"",
        "\"+1\"",
        "\"recycle\"",
        "\"pid\"",
        "\"stop\"",
        "\"quick\"",
        "true",
        "null",
        "[",
        "]",
        "\"wait\"",
        "\"level\"",
        " ",
    ]);
    let near = prop::collection::vec(words, 0..16).prop_map(|words| words.concat().into_bytes());
    prop_oneof![near, prop::collection::vec(any::<u8>(), 0..256)]
}

proptest! {
    #[test]
    fn whatever_is_written_gives_a_request_of_this_version_or_a_reason(line in line()) {
        match parse(&line) {
            Ok(_) => {
                let value: Value = serde_json::from_slice(&line).unwrap();
                prop_assert_eq!(&value["v"], VERSION);
                prop_assert!(value["command"].is_string());
            }
            Err(malformed) => prop_assert!(!malformed.to_string().contains('\n')),
        }
    }

    #[test]
    fn every_pid_above_zero_is_read_and_no_other(pid in any::<i64>()) {
        let line = format!(r#"{{"v":1,"command":"recycle","pid":{pid}}}"#);
        prop_assert_eq!(read(&line).is_ok(), (1..=i64::from(i32::MAX)).contains(&pid));
    }

    #[test]
    fn every_number_of_workers_in_range_is_read_and_no_other(number in any::<i32>(), plus in any::<bool>()) {
        let text = if plus && number >= 0 { format!("+{number}") } else { number.to_string() };
        let allowed = number != 0 && number.unsigned_abs() <= 1024;
        prop_assert_eq!(scale(&text).is_ok(), allowed, "{}", text);
    }
}
