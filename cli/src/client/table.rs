//! What `status` and `top` print for people.

use serde_json::Value;

const HEAD: [&str; 11] =
    ["PID", "SLOT", "GEN", "PHASE", "AGE", "REQUESTS", "CONNS", "BUSY", "BEAT", "RSS", "SERVING"];

/// The answer to `status` as text: the server, a line for each worker, and what it is serving.
pub(super) fn status(answer: &[Value]) -> String {
    let mut text = String::new();
    for arbiter in answer.iter().filter_map(|line| line.get("arbiter")) {
        let listeners =
            arbiter["listeners"].as_array().map(|all| all.iter().map(word).collect::<Vec<_>>().join(" "));
        text += &format!(
            "{}: pid {}, {}, up {}, generation {}, {} workers of {}, {}\n\n",
            word(&arbiter["phase"]),
            word(&arbiter["pid"]),
            word(&arbiter["version"]),
            time(&arbiter["uptime"]),
            word(&arbiter["generation"]),
            word(&arbiter["workers"]),
            word(&arbiter["backend"]),
            listeners.unwrap_or_default(),
        );
    }
    let workers: Vec<_> = answer.iter().filter_map(|line| line.get("worker")).map(row).collect();
    text + &aligned(&workers)
}

fn row(worker: &Value) -> [String; 11] {
    let phase = match worker["reason"].as_str() {
        Some(reason) => format!("{} ({reason})", word(&worker["phase"])),
        None => word(&worker["phase"]),
    };
    let busy = worker["busy"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let serving = busy.map(|busy| format!("{} for {}", word(&busy["request"]), time(&busy["for"])));
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
        serving.collect::<Vec<_>>().join(", "),
    ]
}

/// The rows under their heads, each column as wide as the widest of it.
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

/// Seconds as people say them: `0.4s`, `42s`, `7m03s`, `5h07m`, `3d04h`.
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

/// Bytes as people say them: `512K`, `34M`, `1.2G`.
fn size(value: &Value) -> String {
    let Some(bytes) = value.as_u64() else { return "-".to_owned() };
    match bytes {
        0..0x10_0000 => format!("{}K", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{}M", bytes >> 20),
        _ => format!("{:.1}G", bytes as f64 / f64::from(1 << 30)),
    }
}
