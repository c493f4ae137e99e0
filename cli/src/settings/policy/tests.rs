use std::time::Duration;

use super::*;

fn read(text: &str) -> Result<String, Option<String>> {
    let mut settings = Settings::default();
    settings.custom_policies.insert("mine".into(), Arc::new(Grace(Duration::from_secs(7))));
    parse(text, &settings).map(|policy| format!("{policy:?}")).map_err(|refusal| refusal.0)
}

#[test]
fn each_policy_has_its_name_and_its_time() {
    for (text, policy) in [
        ("finish", "Finish"),
        ("close-idle", "CloseIdle"),
        ("grace:1s", "Grace(1s)"),
        ("grace:500ms", "Grace(500ms)"),
        ("grace:0", "Grace(0ns)"),
        ("spread:10", "Spread(10s)"),
        ("spread:2m", "Spread(120s)"),
        ("mine", "Grace(7s)"),
        ("handoff", "Handoff(Finish)"),
        ("handoff,spread:2s", "Handoff(Spread(2s))"),
        ("handoff,mine", "Handoff(Grace(7s))"),
    ] {
        assert_eq!(read(text).as_deref(), Ok(policy), "{text}");
    }
}

#[test]
fn a_bad_policy_is_refused_with_a_reason() {
    let grace = "but grace takes a time, as in grace:10s";
    let unknown = "and not a policy of this program: mine";
    for (text, why) in [
        ("grace", grace),
        ("grace:", grace),
        ("grace:-1s", grace),
        ("grace:1s,spread:1s", grace),
        ("spread:99999h", "but spread takes a time, as in spread:10s"),
        ("handoff,", unknown),
        ("handoff,grace", grace),
        ("handoff,handoff", "but handoff needs another policy as its fallback"),
        ("handoffs", unknown),
        ("finish:1s", unknown),
        ("Finish", unknown),
        ("", unknown),
    ] {
        assert_eq!(read(text), Err(Some(why.to_owned())), "{text}");
    }
    assert_eq!(parse("mine", &Settings::default()).map_err(|refusal| refusal.0).err(), Some(None));
}
