//! `assent participant check`: participants that keep the rules pass, and each that breaks one is found out.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "check/kit.rs"]
mod kit;
#[path = "check/python.rs"]
mod python;
#[path = "check/sdk.rs"]
mod sdk;
#[path = "check/usage.rs"]
mod usage;
#[path = "check/wrong.rs"]
mod wrong;
#[path = "check/wrongs.rs"]
mod wrongs;

/// Says to this very test program that it is to be a participant, or to look at the data of one.
const ROLE: &str = "ASSENT_TEST_ROLE";

/// Is a participant when told to be one; as a test of its own it has nothing to show.
#[tokio::test(flavor = "multi_thread")]
async fn participant_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.split_once(' ').unwrap() {
        ("wrong", settings) => wrong::serve(serde_json::from_str(settings).unwrap()).await,
        ("sdk", settings) => sdk::serve(serde_json::from_str(settings).unwrap()).await,
        ("goods", file) => sdk::print_goods(file),
        other => panic!("no role {other:?}"),
    }
}

/// The shell command that gives this program a role.
fn command(role: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!("{ROLE}='{role}' exec '{}' --exact participant_process --nocapture", program.display())
}

/// A free port of this machine.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
