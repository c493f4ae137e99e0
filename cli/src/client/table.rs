//! The text that `status` and `top` print.

use serde_json::Value;

const HEAD: [&str; 11] =
    ["PID", "SLOT", "GEN", "PHASE", "AGE", "REQUESTS", "CONNS", "BUSY", "BEAT", "RSS", "SERVING"];

/// The answer to `status` as text: the server, and one line for each worker with the requests that
/// it is serving.
pub(super) fn status(answer: &[Value]) -> String {
    let mut text = String::new();
    for arbiter in answer.iter().filter_map(|line| line.get("arbiter")) {
        let listeners =
            arbiter["listeners"].as_array().map(|all| all.iter().map(word).collect::<Vec<_>>().join(" "));
        text += &format!(
            "{}: pid {}, {}, up {}, generation {}, {} of {}, {}\n",
            word(&arbiter["phase"]),
            word(&arbiter["pid"]),
            word(&arbiter["version"]),
            time(&arbiter["uptime"]),
            word(&arbiter["generation"]),
            workers(arbiter["workers"].as_u64().unwrap_or_default()),
            word(&arbiter["backend"]),
            listeners.unwrap_or_default(),
        );
        for lost in arbiter["lost"].as_array().into_iter().flatten() {
            text += &format!("! {}; HUP creates it again, or logs why not\n", word(lost));
        }
        let is_unkept = |worker: &&Value| worker["keeper_pid"].is_null() && worker["phase"] != "booting";
        let workers = answer.iter().filter_map(|line| line.get("worker"));
        for worker in workers.filter(is_unkept).filter(|_| arbiter["rescue"] == true) {
            let pid = word(&worker["pid"]);
            text += &format!("! worker {pid} has no keeper: its connections end with it if it dies\n");
        }
        text.push('\n');
    }
    let rows: Vec<_> = answer.iter().filter_map(|line| line.get("worker")).map(row).collect();
    text + &aligned(&rows)
}

/// A count of workers: `1 worker`, `2 workers`.
pub(super) fn workers(n: u64) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} worker{plural}")
}

fn row(worker: &Value) -> [String; 11] {
    let phase = match worker["reason"].as_str() {
        Some(reason) => format!("{} ({reason})", word(&worker["phase"])),
        None => word(&worker["phase"]),
    };
    let busy = worker["busy"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let mut serving: Vec<_> = busy.map(serving).collect();
    let unseen = worker["in_flight"].as_u64().unwrap_or_default().saturating_sub(serving.len() as u64);
    if unseen > 0 {
        serving.push(format!("{unseen} more"));
    }
    [
        word(&worker["pid"]),
        word(&worker["slot"]),
        word(&worker["generation"]),
        phase,
        time(&worker["age"]),
        word(&worker["requests"]),
        word(&worker["connections"]),
        word(&worker["busy_handlers"]),
        time(&worker["heartbeat_age"]),
        size(&worker["rss"]),
        serving.join(", "),
    ]
}

/// One exchange, as in `GET /report for 10.0s`, with its state in parentheses unless its handler is
/// running.
fn serving(busy: &Value) -> String {
    let exchange = format!("{} for {}", word(&busy["request"]), time(&busy["for"]));
    match busy["doing"].as_str() {
        None | Some("running") => exchange,
        Some(doing) => format!("{exchange} ({doing})"),
    }
}

/// The rows under their headings, each column as wide as its widest cell.
fn aligned(rows: &[[String; 11]]) -> String {
    let head = HEAD.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; 11]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    all().map(line).collect()
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Seconds in a readable unit: `0.4s`, `42s`, `7m03s`, `5h07m`, `3d04h`.
fn time(value: &Value) -> String {
    let Some(seconds) = value.as_f64() else { return "-".to_owned() };
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1}s"),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86400, whole % 86400 / 3600),
    }
}

/// Bytes in a readable unit: `512K`, `34M`, `1.2G`.
fn size(value: &Value) -> String {
    let Some(bytes) = value.as_u64() else { return "-".to_owned() };
    match bytes {
        0..0x10_0000 => format!("{}K", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{}M", bytes >> 20),
        _ => format!("{:.1}G", bytes as f64 / f64::from(1 << 30)),
    }
}
