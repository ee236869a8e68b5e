//! `assent participant`

mod check;

use clap::Subcommand;

use super::output::Output;
use super::{Exit, Failure, Global};

#[derive(Debug, Subcommand)]
pub enum Participant {
    /// Check whether a participant, in any language, keeps the rules
    #[command(long_about = check::ABOUT)]
    Check(Box<check::Check>),
}

impl Participant {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        match self {
            Participant::Check(check) => check.run(global, output),
        }
    }
}
