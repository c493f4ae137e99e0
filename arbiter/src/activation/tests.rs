use super::*;

fn passed(variables: &[(&str, &str)]) -> Passed {
    let find =
        |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).into());
    Passed::read(find, "42")
}

const THREE: [(&str, &str); 3] = [(PID, "42"), (COUNT, "3"), (NAMES, "web:admin:web")];

#[test]
fn descriptors_for_another_process_are_ignored() {
    assert!(passed(&[]).0.is_empty());
    assert!(passed(&[(PID, "41"), (COUNT, "2")]).0.is_empty());
    assert!(passed(&[(COUNT, "2")]).0.is_empty());
    assert!(passed(&[(PID, "42"), (COUNT, "many")]).0.is_empty());
    assert_eq!(passed(&THREE).0, ["web", "admin", "web"]);
}

#[test]
fn descriptors_without_a_name_are_unknown() {
    assert_eq!(passed(&[(PID, "42"), (COUNT, "2"), (NAMES, "web")]).0, ["web", "unknown"]);
    assert_eq!(passed(&[(PID, "42"), (COUNT, "1")]).0, ["unknown"]);
}

#[test]
fn a_name_selects_all_descriptors_with_it() {
    let passed = passed(&THREE);
    let web = Bind::Named("web".into());
    assert_eq!(passed.resolve(&[web, Bind::Fd(9)]).unwrap(), [Bind::Fd(3), Bind::Fd(5), Bind::Fd(9)]);
    assert_eq!(passed.resolve(&[Bind::Activated]).unwrap(), [Bind::Fd(3), Bind::Fd(4), Bind::Fd(5)]);
}

#[test]
fn a_missing_descriptor_is_refused_with_the_names_of_others() {
    let error = passed(&THREE).resolve(&[Bind::Named("wbe".into())]).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot listen on fd://wbe: the service manager passed on no such listener; it passed on web, admin, web"
    );
    let error = passed(&[]).resolve(&[Bind::Activated]).unwrap_err().to_string();
    assert!(error.ends_with("it passed on none to this process"), "{error}");
}
