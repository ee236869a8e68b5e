//! The protocol buffers suffice for any language: Python takes part with nothing else.

use std::path::Path;
use std::process::Command;

use crate::coordinator::Coordinator;

#[test]
fn a_python_participant_and_initiator_need_no_sdk() {
    let coordinator = Coordinator::start(&["--set", r#"participants.allowed_hosts=["127.0.0.1"]"#]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/run.sh");
    let output = Command::new(script).arg(coordinator.url()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("ok run_over_sessions_commits_2pc"), "it checked nothing:\n{out}\n{err}");
}
