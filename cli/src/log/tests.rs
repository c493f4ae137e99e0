use std::io::Write;

use tracing::subscriber::with_default;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// Collects the written bytes.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Kept {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The lines of text that `log` writes, without time and process.
fn text(log: impl FnOnce()) -> Vec<String> {
    let kept = Kept::default();
    let lines = layer().with_writer(kept.clone()).with_ansi(false).fmt_fields(Fields);
    let line = Once(format().with_target(false).with_ansi(false).with_timer(TimeAndPid));
    with_default(tracing_subscriber::registry().with(lines.event_format(line)), log);
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| line.split_once("]  INFO ").unwrap().1.to_owned()).collect()
}

#[test]
fn a_line_of_text_leaves_out_fields_of_its_message() {
    let lines = text(|| {
        tracing::info!(target: "remuda_arbiter::notice", workers = 2, slot = 7, error = "x y", "now 2 workers");
        tracing::info!(target: "remuda", rss = 5_u64, limit = 4_u64, "5 of 4");
    });
    assert_eq!(lines, ["now 2 workers slot=7 error=\"x y\"", "5 of 4"]);
}

#[test]
fn fields_of_other_crates_events_are_kept() {
    let lines = text(|| {
        tracing::info!(target: "remuda_arbiter", workers = 2, "ours");
        tracing::info!(target: "shop::cart", workers = 2, "theirs");
        tracing::info_span!(target: "shop", "order", limit = 3).in_scope(|| {
            tracing::info!(target: "shop", "theirs");
        });
    });
    assert_eq!(lines, ["ours", "theirs workers=2", "order{limit=3}: theirs"]);
}

#[test]
fn a_stack_is_a_line_for_each_frame_and_an_array_in_json() {
    let log = || tracing::info!(target: "remuda_arbiter", slot = 1, stack = "a::b (\"x\".rs:1)\nc::d", "worker stack trace");
    let lines = Kept::default();
    let line = Once(format().with_target(false).with_ansi(false).with_timer(TimeAndPid));
    let layer_of_text =
        layer().with_writer(lines.clone()).with_ansi(false).fmt_fields(Fields).event_format(line);
    with_default(tracing_subscriber::registry().with(layer_of_text), log);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let (_, text) = text.split_once("]  INFO ").unwrap();
    assert_eq!(text, "worker stack trace slot=1\n    a::b (\"x\".rs:1)\n    c::d\n");

    let objects = Kept::default();
    let layer_of_json = layer().with_writer(objects.clone()).json().event_format(WithPid(format().json()));
    with_default(tracing_subscriber::registry().with(layer_of_json), log);
    let object: serde_json::Value = serde_json::from_slice(&objects.0.lock().unwrap()).unwrap();
    assert_eq!(object["fields"]["stack"], serde_json::json!(["a::b (\"x\".rs:1)", "c::d"]));
}
