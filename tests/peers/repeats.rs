//! Clients that send a request again by themselves, a POST too, when a connection that was used
//! before ends without a byte: libcurl (curl, PHP) and wget. However a worker ends, such a client
//! is told a 5xx, and the handler runs once.
//!
//! PHP's own streams close each connection, and are no such client. Java's are, but a JDK is too
//! large to be installed for this.

use std::fs;
use std::process::Command;
use std::thread;

use remuda_conformance::Harness;
use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::process::{Process, Server, until};
use rustix::process::Signal;

/// The target of the POST. Its handler does not read the body.
const TARGET: &str = "/overtime?ms=60000";

/// What a handler writes to the log when it begins.
const BEGUN: &str = "<begun>";

/// A small body, and a large one.
const BODIES: [usize; 2] = [5, 1 << 20];

/// Requests `/`, and then sends the POST on the same connection. Prints the status and how many
/// connections the POST has opened.
const PHP: &str = r#"
    [, $base, $path, $begun] = $argv;
    $curl = curl_init("$base/");
    curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
    curl_exec($curl);
    curl_setopt($curl, CURLOPT_URL, $base . $path);
    curl_setopt($curl, CURLOPT_POSTFIELDS, file_get_contents("body"));
    curl_setopt($curl, CURLOPT_HTTPHEADER, ["Tell: $begun", "Expect:"]);
    curl_exec($curl);
    echo curl_getinfo($curl, CURLINFO_RESPONSE_CODE), " ", curl_getinfo($curl, CURLINFO_NUM_CONNECTS);
"#;

/// How a worker ends, or gives up a handler.
pub(crate) struct Ending {
    /// Settings of its server.
    pub(crate) settings: &'static [&'static str],
    /// What is sent to the worker while the handler runs.
    pub(crate) signal: Option<Signal>,
    /// The status that the client is told.
    pub(crate) status: u16,
}

/// Asserts that the handler runs once, and that the client is told the status, with each program
/// and each body. All of these run at the same time.
pub(crate) fn end(harnesses: &[Harness], ending: &Ending) {
    thread::scope(|scope| {
        for harness in harnesses {
            for program in ["curl", "php", "wget"] {
                for len in BODIES {
                    scope.spawn(move || post(harness, program, len, ending));
                }
            }
        }
    });
}

fn post(harness: &Harness, program: &'static str, len: usize, ending: &Ending) {
    let server = harness.serve(ending.settings);
    fs::write(server.dir().join("body"), vec![b'x'; len]).expect("a file can be written");
    let worker = server.worker();
    // The handler of the first request of wget writes the word as well.
    let handlers = if program == "wget" { 2 } else { 1 };
    let (status, said) = thread::scope(|scope| {
        let client = scope.spawn(|| run(&server, program));
        until(PATIENCE, || (begun(&server) == handlers).then_some(())).expect("the handler begins");
        ending.signal.into_iter().for_each(|signal| worker.signal(signal));
        client.join().expect("the client runs")
    });
    let who = format!("{harness:?}: {program} with {len} bytes: {said}");
    assert_eq!(status, Some(ending.status), "{who}");
    assert_eq!(begun(&server), handlers, "the handler ran again: {who}");
    assert_ended(&server, &worker, ending);
}

/// A repeated request would have been served: the worker has a replacement.
fn assert_ended(server: &Server, worker: &Process, ending: &Ending) {
    if ending.signal.is_some() {
        assert!(worker.wait_gone(PATIENCE), "the worker is alive");
        server.catch_up();
    }
}

fn begun(server: &Server) -> usize {
    server.log().matches(BEGUN).count()
}

/// Runs a client. Returns the status of the response to the POST, if it was sent on the connection
/// of the request before, and what the client said.
fn run(server: &Server, program: &str) -> (Option<u16>, String) {
    let Address::Inet(address) = server.address() else { unreachable!("it has a port") };
    let base = format!("http://{address}");
    let (root, target, tell) = (format!("{base}/"), format!("{base}{TARGET}"), format!("Tell: {BEGUN}"));
    let args: &[&str] = match program {
        "curl" => &[
            &["-sS", "-o", "first", &root, "--next", "-sS", "-o", "second"][..],
            &["-w", "%{http_code} %{num_connects}", "-H", &tell, "-H", "Expect:"],
            &["--data-binary", "@body", &target],
        ]
        .concat(),
        "php" => &["-r", PHP, "--", &base, TARGET, BEGUN],
        _ => &[
            "-O",
            "both",
            "--method=POST",
            "--body-file=body",
            "--header",
            &tell,
            &format!("{base}/echo"),
            &target,
        ],
    };
    let mut command = Command::new("timeout");
    command.args(["20", program]).args(args).current_dir(server.dir()).env("LC_ALL", "C");
    let output = command.output().expect("there is timeout(1)");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (said(&output.stdout), said(&output.stderr));
    let status = match program {
        // The status, and no new connection.
        "curl" | "php" => stdout.strip_suffix(" 0").and_then(|status| status.parse().ok()),
        _ => stderr.split_once("Reusing existing connection").and_then(|(_, rest)| {
            let (_, status) = rest.split_once("awaiting response... ")?;
            status.get(..3)?.parse().ok()
        }),
    };
    (status, format!("{stdout}{stderr}"))
}
