use super::*;

#[test]
fn users_and_groups_have_names_and_numbers() {
    let root = User::find("root").unwrap().unwrap();
    assert_eq!(User::find("0").unwrap().unwrap(), root);
    assert_eq!((root.uid, root.gid), (Uid::from_raw(0), Some(Gid::from_raw(0))));
    assert_eq!(Group::find("root").unwrap(), Group::find("0").unwrap());
    assert_eq!(User::find("no such user").unwrap(), None);
    assert_eq!(Group::find("no such group").unwrap(), None);
}

#[test]
fn an_unused_number_is_a_user_without_a_group() {
    let user = User::find("3999999999").unwrap().unwrap();
    assert!(user.lacks_group());
    assert_eq!(user.uid, Uid::from_raw(3_999_999_999));
    assert!(Group::find("3999999999").unwrap().is_some());
}

#[test]
fn a_text_that_is_not_a_number_is_none() {
    for text in ["-1", "+1", "4294967295", "4294967296", "1 ", ""] {
        assert_eq!(User::find(text).unwrap(), None, "{text:?}");
        assert_eq!(Group::find(text).unwrap(), None, "{text:?}");
    }
}

#[test]
fn the_group_is_that_of_the_user_by_default() {
    let mut config = ProcessConfig::default();
    assert_eq!(config.owner(), (None, None));
    config.user = User::find("root").unwrap();
    assert_eq!(config.owner(), (Some(Uid::from_raw(0)), Some(Gid::from_raw(0))));
    config.group = Group::find("7").unwrap();
    assert_eq!(config.owner(), (Some(Uid::from_raw(0)), Some(Gid::from_raw(7))));
}

#[test]
fn an_unchanged_user_needs_no_privilege() {
    ProcessConfig::default().assume().unwrap();
    let (user, group) = (User::find(&geteuid().to_string()), Group::find(&getegid().to_string()));
    ProcessConfig { user: user.unwrap(), group: group.unwrap(), ..Default::default() }.assume().unwrap();
}

#[test]
fn a_title_has_the_name_in_brackets() {
    let mut config = ProcessConfig::default();
    assert_eq!(config.title("arbiter"), "remuda: arbiter");
    config.name = Some("shop".into());
    assert_eq!(config.title("worker 3"), "remuda: worker 3 [shop]");
}
