//! The participant in Python, written with nothing but the protocol buffers, keeps the rules.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::free_port;
use crate::kit::check;

/// Its packages may have to be installed first.
const PATIENCE: Duration = Duration::from_secs(300);
const WHAT: [&str; 8] =
    ["--protocol", "2pc,tcc", "--payload", "1", "--payload-refused", "100000", "--output", "json"];
/// It takes part by both protocols, keeps its goods in memory, and nobody can look at them.
const NOT_FOR_IT: [&str; 4] = ["observed-effect", "wrong-protocol", "killed-prepared", "killed-decided"];

#[tokio::test(flavor = "multi_thread")]
async fn a_python_participant_keeps_the_rules() {
    let mut dialled = start(&["dialled"]);
    let mut stdout = BufReader::new(dialled.stdout.take().unwrap()).lines();
    let url = timeout(PATIENCE, stdout.next_line()).await.unwrap().unwrap().unwrap();
    let said = check(&[&[url.as_str()], &WHAT[..]].concat()).await;
    let doubt =
        ["in-doubt-asks", "in-doubt-commit", "in-doubt-abort", "in-doubt-pending", "in-doubt-foreign"];
    let [observed, wrong, killed @ ..] = NOT_FOR_IT;
    let not_run = [&[observed, wrong], &doubt[..], &killed].concat();
    said.assert_passed_but_for(&[&not_run[..], &not_run].concat());

    let listen = format!("127.0.0.1:{}", free_port());
    let _session = start(&["session", &format!("http://{listen}"), "shop/stock"]);
    let said = check(&[&["shop/stock", "--listen", &listen], &WHAT[..]].concat()).await;
    said.assert_passed_but_for(&[NOT_FOR_IT, NOT_FOR_IT].concat());
}

/// It ends when its standard input does, and so with this test.
fn start(arguments: &[&str]) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/run.sh");
    let mut command = Command::new(script);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}
