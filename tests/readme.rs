//! What the README says is so: its code is compiled, and its commands exist.

use std::fs;
use std::path::Path;

use clap::CommandFactory as _;

#[test]
fn its_code_stands_in_an_example_that_is_compiled() {
    let example = read("participant-sdk/examples/stock.rs");
    let readme = read("README.md");
    let blocks = blocks(&readme, "rust");
    assert!(!blocks.is_empty());
    for block in blocks {
        assert!(example.contains(block), "the example does not contain:\n{block}");
    }
}

#[test]
fn its_assent_commands_are_ones_that_the_command_line_knows() {
    let readme = read("README.md");
    let mut seen = 0;
    for line in blocks(&readme, "").iter().flat_map(|block| block.lines()) {
        let line = line.replace("XID", "00000000-0000-8000-8000-004000000000");
        let line = line.split('#').next().expect("a split has a first part").trim_end();
        let args: Vec<_> = match line.strip_prefix("cargo run --release -- ") {
            Some(args) => std::iter::once("assent").chain(args.split_whitespace()).collect(),
            None if line.starts_with("assent ") => line.split_whitespace().collect(),
            None => continue,
        };
        seen += 1;
        assent::cli::Cli::command()
            .try_get_matches_from(args)
            .unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    assert!(seen >= 6, "only {seen} commands were found");
}

#[test]
fn ci_runs_its_commands() {
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    let commands = ["cargo run --release -- demo", ".ci/tools", "cargo test --workspace --all-features"];
    for command in commands {
        assert!(readme.contains(command), "the README has no {command:?}");
        assert!(ci.contains(command), ".ci/run has no {command:?}");
    }
}

/// The fenced blocks of this language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let mut parts = text.split("```");
    let _before = parts.next();
    // Inside and outside take turns.
    parts
        .step_by(2)
        .filter_map(|part| part.split_once('\n'))
        .filter(|(first, _)| *first == language)
        .map(|(_, block)| block)
        .collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
