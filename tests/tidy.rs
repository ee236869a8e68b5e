//! What `ARCHITECTURE.md` forbids and no compiler checks: who may name what, and what must not be left in the sources.
//!
//! Comments and tests are not looked at. A breach is reported as `file:line: what is wrong`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The sources of the three crates.
const ROOTS: [&str; 3] = ["src", "participant-sdk/src", "proto/src"];

/// What the core must not know: it is pure.
const IMPURE: [&str; 7] = ["tokio", "tonic", "prost", "sled", "Instant::now", "SystemTime", "rand"];

const STUBS: [&str; 2] = ["todo!", "unimplemented!"];

/// The one file that makes gRPC statuses.
const STATUS_FILE: &str = "src/api/status.rs";

/// A source file without what is not looked at. Line numbers stay.
struct Source {
    path: String,
    code: String,
}

type Rule = fn(&Source) -> Vec<String>;

#[test]
fn the_core_is_pure() {
    enforce(names_nothing_impure);
}

#[test]
fn only_the_store_names_sled() {
    enforce(names_sled_in_the_store_only);
}

#[test]
fn nothing_is_decided_by_the_wall_clock() {
    enforce(reads_the_wall_clock_in_one_place);
}

#[test]
fn every_test_that_the_tables_name_exists() {
    let text = read(&root().join("tests/README.md"));
    let tests = Tests::of_the_sources();
    let mut numbers = Vec::new();
    let mut traps = 0;
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let named = match cells[..] {
            [number, _, named, _] if number.parse::<u32>().is_ok() => {
                numbers.extend(number.parse::<u32>());
                named
            }
            ["PostgreSQL" | "MariaDB" | "both", _, named] => {
                traps += 1;
                named
            }
            _ => continue,
        };
        let named: Vec<_> = named.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "this row names no test: {line}");
        for name in named {
            assert!(tests.have(name), "{name} is no test: {line}");
        }
    }
    assert_eq!(numbers, (1..=44).collect::<Vec<_>>());
    assert!(traps > 20, "the traps of databases were not found");
    assert!(!tests.have("a_test_that_is_not_there") && !tests.have("participants/case 99"));
}

#[test]
fn statuses_are_built_in_one_file() {
    // Until there is an API there is nothing to keep together.
    if root().join(STATUS_FILE).exists() {
        enforce(builds_statuses_in_one_place);
    }
}

#[test]
fn nothing_is_left_unfinished_and_nothing_panics_for_want_of_a_reason() {
    enforce(leaves_no_stub_and_no_unwrap);
}

#[test]
fn no_file_is_called_mod_rs() {
    let roots = ROOTS.iter().chain(&["tests"]);
    let found: Vec<_> = roots
        .flat_map(|dir| files(&root().join(dir)))
        .filter(|path| path.file_name().is_some_and(|name| name == "mod.rs"))
        .collect();
    assert!(found.is_empty(), "write foo.rs and foo/, not foo/mod.rs: {found:?}");
}

#[test]
fn every_rule_bites() {
    let bites = |rule: Rule, path: &str, text: &str| !rule(&Source::new(path, text)).is_empty();

    assert!(bites(names_nothing_impure, "src/core/engine.rs", "use tokio::time;"));
    assert!(bites(names_nothing_impure, "src/core.rs", "let now = std::time::Instant::now();"));
    assert!(!bites(names_nothing_impure, "src/core/engine.rs", "let operand = 1; // no rand, no sled"));
    assert!(!bites(names_nothing_impure, "src/coordinator.rs", "use tokio::time;"));

    assert!(bites(names_sled_in_the_store_only, "src/main.rs", "fn open() -> sled::Db {"));
    assert!(!bites(names_sled_in_the_store_only, "src/store/embedded.rs", "use sled::Db;"));
    assert!(!bites(names_sled_in_the_store_only, "src/store.rs", "use sled::Db;"));

    let looks = "let now = SystemTime::now();";
    assert!(bites(reads_the_wall_clock_in_one_place, "participant-sdk/src/lib.rs", looks));
    assert!(bites(reads_the_wall_clock_in_one_place, "src/transport.rs", looks));
    assert!(!bites(reads_the_wall_clock_in_one_place, "src/coordinator.rs", looks));
    assert!(!bites(reads_the_wall_clock_in_one_place, "src/cli/time.rs", looks));

    assert!(bites(builds_statuses_in_one_place, "src/api/admin.rs", "Err(Status::internal(\"no\"))"));
    assert!(!bites(builds_statuses_in_one_place, "src/api/admin.rs", "GetServerStatus::default()"));
    assert!(!bites(builds_statuses_in_one_place, STATUS_FILE, "Status::internal(\"no\")"));

    assert!(bites(leaves_no_stub_and_no_unwrap, "src/main.rs", "fn run() { todo!() }"));
    assert!(bites(leaves_no_stub_and_no_unwrap, "src/main.rs", "let at = \"http://x\".parse().unwrap();"));
    assert!(!bites(leaves_no_stub_and_no_unwrap, "src/main.rs", "/// x.unwrap()\nfn run() {}"));
    let with_tests = "fn run() {}\n#[cfg(test)]\nmod tests {\n    fn t() { run().unwrap(); }\n}\n";
    assert!(!bites(leaves_no_stub_and_no_unwrap, "src/main.rs", with_tests));
    let breach = leaves_no_stub_and_no_unwrap(&Source::new("src/main.rs", "\n\nx.unwrap()"));
    assert!(breach[0].starts_with("src/main.rs:3: "), "{breach:?}");
}

fn names_nothing_impure(source: &Source) -> Vec<String> {
    let in_core = source.path == "src/core.rs" || source.path.starts_with("src/core/");
    source.breaches(if in_core { &IMPURE } else { &[] }, "the core has no I/O, no clock and no randomness")
}

fn names_sled_in_the_store_only(source: &Source) -> Vec<String> {
    let in_store = source.path == "src/store.rs" || source.path.starts_with("src/store/");
    source.breaches(if in_store { &[] } else { &["sled"] }, "only src/store knows which database it is")
}

/// The coordinator's is for what people read and how long ended transactions are kept; the command line's is for people.
fn reads_the_wall_clock_in_one_place(source: &Source) -> Vec<String> {
    let for_people = source.path == "src/coordinator.rs" || source.path.starts_with("src/cli/");
    let clocks: &[&str] = if for_people { &[] } else { &["SystemTime"] };
    source.breaches(clocks, "wall clocks jump; count from a monotonic Instant")
}

fn builds_statuses_in_one_place(source: &Source) -> Vec<String> {
    let elsewhere = source.path.starts_with("src/") && source.path != STATUS_FILE;
    source.breaches(if elsewhere { &["Status::"] } else { &[] }, "statuses are built in src/api/status.rs")
}

fn leaves_no_stub_and_no_unwrap(source: &Source) -> Vec<String> {
    let stubs = source.breaches(&STUBS, "finish it");
    stubs.into_iter().chain(source.breaches(&[".unwrap()"], "say why it cannot fail, with expect")).collect()
}

fn enforce(rule: Rule) {
    let sources = sources();
    assert!(sources.len() > 10, "the sources were not found");
    let breaches: Vec<_> = sources.iter().flat_map(rule).collect();
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let mut code = String::new();
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let next = lines.get(number + 1).copied().unwrap_or_default();
            // Tests come last in a file.
            if line.trim() == "#[cfg(test)]" && next.contains("mod ") && next.ends_with('{') {
                break;
            }
            code += without_comment(line);
            code.push('\n');
        }
        Source { path: path.to_owned(), code }
    }

    /// Where one of these words occurs, not as a part of a longer one.
    fn breaches(&self, words: &[&str], why: &str) -> Vec<String> {
        let in_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut breaches = Vec::new();
        for (line, number) in self.code.lines().zip(1..) {
            for word in words {
                let found = line.match_indices(word).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    let after = line[at + word.len()..].chars().next();
                    let starts = !word.starts_with(in_word) || !before.is_some_and(in_word);
                    starts && (!word.ends_with(in_word) || !after.is_some_and(in_word))
                });
                if found {
                    breaches.push(format!("{}:{number}: {word}: {why}", self.path));
                }
            }
        }
        breaches
    }
}

/// The line up to a comment that begins outside of a text.
fn without_comment(line: &str) -> &str {
    let mut in_text = false;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        if !in_text && line[at..].starts_with("//") {
            return &line[..at];
        }
        if c == '"' && !escaped && !line[..at].ends_with('\'') {
            in_text = !in_text;
        }
        escaped = c == '\\' && !escaped;
    }
    line
}

fn sources() -> Vec<Source> {
    let paths: Vec<_> = ROOTS.iter().flat_map(|dir| files(&root().join(dir))).collect();
    let tests: BTreeSet<_> = paths.iter().flat_map(|path| test_modules(path)).collect();
    let is_test = |path: &Path| tests.iter().any(|module| path.with_extension("").starts_with(module));
    let rust = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.filter(|path| !is_test(path))
        .map(|path| {
            let name = path.strip_prefix(root()).expect("it was found below the root");
            Source::new(&name.to_string_lossy(), &read(path))
        })
        .collect()
}

/// The modules of their own that a file declares for tests only, as paths without an extension.
fn test_modules(path: &Path) -> Vec<PathBuf> {
    let is_root = path.file_stem().is_some_and(|stem| stem == "lib" || stem == "main");
    let dir =
        if is_root { path.parent().expect("it is in a directory").into() } else { path.with_extension("") };
    if path.extension().is_none_or(|extension| extension != "rs") {
        return Vec::new();
    }
    let text = read(path);
    let lines: Vec<_> = text.lines().collect();
    let declared = lines.windows(2).filter(|pair| pair[0].trim() == "#[cfg(test)]");
    let names = declared.filter_map(|pair| pair[1].trim().strip_suffix(';')?.split("mod ").nth(1));
    names.map(|name| dir.join(name)).collect()
}

/// The names of all tests, in whatever language.
struct Tests {
    functions: BTreeSet<String>,
    /// `file/section`
    scenarios: Vec<String>,
}

impl Tests {
    fn of_the_sources() -> Tests {
        let mut tests = Tests { functions: BTreeSet::new(), scenarios: Vec::new() };
        let roots = ROOTS.iter().chain(&["tests", "participant-sdk/tests"]);
        for path in roots.flat_map(|dir| files(&root().join(dir))) {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("rs") => tests.add_functions(&read(&path), "fn "),
                Some("py") => tests.add_functions(&read(&path), "def "),
                Some("txt") => tests.add_sections(&path),
                Some(_) | None => {}
            }
        }
        tests
    }

    fn add_functions(&mut self, text: &str, keyword: &str) {
        for line in text.lines().map(str::trim_start) {
            let line = line.strip_prefix("async ").unwrap_or(line);
            let name = line.strip_prefix(keyword).and_then(|rest| rest.split(['(', '<']).next());
            self.functions.extend(name.map(str::to_owned));
        }
    }

    fn add_sections(&mut self, path: &Path) {
        let file = path.file_stem().expect("it has an extension").to_string_lossy();
        let text = read(path);
        let sections = text.lines().filter_map(|line| line.strip_prefix("== "));
        self.scenarios.extend(sections.map(|section| format!("{file}/{section}")));
    }

    fn have(&self, name: &str) -> bool {
        // `case 1` is not `case 10`.
        let begins = |scenario: &String| {
            scenario.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
        };
        if name.contains('/') { self.scenarios.iter().any(begins) } else { self.functions.contains(name) }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a directory can be read").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
