//! `assent participant`

mod check;
mod ddl;
mod indoubt;

use clap::Subcommand;

use super::output::Output;
use super::{Exit, Failure, Global};

#[derive(Debug, Subcommand)]
pub enum Participant {
    /// Check whether a participant, in any language, keeps the rules
    #[command(long_about = check::ABOUT)]
    Check(Box<check::Check>),
    /// List what databases hold for branches, and what the coordinator says of each
    #[command(long_about = indoubt::ABOUT)]
    Indoubt(indoubt::Indoubt),
    /// Print the tables that participants keep in their database, as SQL
    Ddl(ddl::Ddl),
}

impl Participant {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        match self {
            Participant::Check(check) => check.run(global, output),
            Participant::Indoubt(indoubt) => super::block_on(indoubt.run(global, output)),
            Participant::Ddl(ddl) => ddl.run(output),
        }
    }
}
