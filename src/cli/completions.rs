//! `assent completions`

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::Shell;

use super::output::Output;
use super::{Cli, Exit, Failure};

#[derive(Debug, Args)]
pub struct Completions {
    #[arg(value_enum)]
    shell: KnownShell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KnownShell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    pub fn run(&self, output: &mut Output) -> Result<Exit, Failure> {
        let shell = match self.shell {
            KnownShell::Bash => Shell::Bash,
            KnownShell::Zsh => Shell::Zsh,
            KnownShell::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "assent", &mut script);
        output.text(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Ok)
    }
}
