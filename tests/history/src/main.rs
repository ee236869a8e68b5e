//! `assent-history check FILE`

use std::path::Path;
use std::process::ExitCode;

use assent_history::{History, check};

const USAGE: &str = "usage: assent-history check FILE

Judges a history of transfers, one record a line. Says what is wrong and which lines show it.
Exit code: 0 nothing is wrong, 1 something is, 2 the file cannot be read.";

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]
fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [command, file] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if command != "check" {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let history = match History::load(Path::new(file)) {
        Ok(history) => history,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let verdict = check(&history);
    println!("{verdict}");
    if verdict.is_good() {
        println!("nothing is wrong");
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {} things are wrong", verdict.findings.len());
    ExitCode::from(1)
}
