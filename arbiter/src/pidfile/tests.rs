use std::os::unix::fs::symlink;

use tempfile::{TempDir, tempdir};

use super::*;

fn place() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("app.pid");
    (dir, path)
}

/// The names of files in the directory.
fn names(dir: &TempDir) -> Vec<OsString> {
    fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn ours() -> String {
    format!("{}\n", getpid())
}

#[test]
fn the_pidfile_holds_the_pid_and_no_other_file_remains() {
    let (dir, path) = place();
    let pidfile = Pidfile::claim(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), ours());
    assert_eq!(names(&dir), ["app.pid"]);
    drop(pidfile);
    assert!(names(&dir).is_empty());
}

#[test]
fn a_held_pidfile_is_refused_and_kept() {
    let (dir, path) = place();
    let _first = Pidfile::claim(&path).unwrap();
    let error = Pidfile::claim(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot write the pidfile {path:?}: process {} runs and holds it; stop it, or choose another path",
            getpid()
        )
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), ours());
    assert_eq!(names(&dir), ["app.pid"]);
}

#[test]
fn a_stale_pidfile_is_replaced_even_if_its_pid_is_reused() {
    // Process 1 lives, and so does this one.
    for text in ["1\n", "999999999\n", "", &ours()] {
        let (dir, path) = place();
        fs::write(&path, text).unwrap();
        let _pidfile = Pidfile::claim(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), ours(), "{text:?}");
        assert_eq!(names(&dir), ["app.pid"]);
    }
}

#[test]
fn a_file_that_is_not_a_pidfile_is_not_replaced() {
    let (dir, path) = place();
    for text in ["root:x:0:0\n", "12 34\n", &"1".repeat(40)] {
        fs::write(&path, text).unwrap();
        assert_eq!(Pidfile::claim(&path).unwrap_err(), PidfileError::NotAPidfile { path: path.clone() });
        assert_eq!(fs::read_to_string(&path).unwrap(), *text);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(Pidfile::claim(&path).unwrap_err(), PidfileError::NotAPidfile { path: path.clone() });
    fs::remove_dir(&path).unwrap();
    symlink("elsewhere", &path).unwrap();
    assert!(matches!(Pidfile::claim(&path).unwrap_err(), PidfileError::System { .. }));
    assert_eq!(names(&dir), ["app.pid"]);
}

#[test]
fn a_missing_directory_is_an_error() {
    let error = Pidfile::claim(Path::new("/nowhere/app.pid")).unwrap_err().to_string();
    assert!(error.starts_with("cannot write the pidfile \"/nowhere/app.pid\": No such file"), "{error}");
}

#[test]
fn a_file_of_another_process_is_not_removed() {
    let (_dir, path) = place();
    let pidfile = Pidfile::claim(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "7\n").unwrap();
    drop(pidfile);
    assert_eq!(fs::read_to_string(&path).unwrap(), "7\n");
}

#[test]
fn a_moved_pidfile_is_removed_at_its_new_path() {
    let (dir, path) = place();
    let mut pidfile = Pidfile::claim(&path).unwrap();
    let other = path.with_extension("pid.2");
    pidfile.rename(&other, RenameFlags::empty()).unwrap();
    assert_eq!(names(&dir), ["app.pid.2"]);
    assert!(matches!(Pidfile::claim(&other).unwrap_err(), PidfileError::Held { .. }));
    let second = Pidfile::claim(&path).unwrap();
    pidfile.rename(&path, RenameFlags::empty()).unwrap();
    drop(second);
    assert_eq!(fs::read_to_string(&path).unwrap(), ours(), "it is the first one's by now");
    drop(pidfile);
    assert!(names(&dir).is_empty());
}
