//! The files under `deploy/`, as far as they can be tried without the machines they are for.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use assent::cli::Cli;
use assent::config::{self, ConfigFile, Settings, Sources};
use clap::Parser as _;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join("deploy").join(name)).unwrap()
}

/// Asks our own definition of the command line about a command that begins with the path of the binary.
fn assert_understood(arguments: &[String]) {
    assert_eq!(Path::new(&arguments[0]).file_name().unwrap(), "assent");
    if let Err(error) = Cli::try_parse_from(arguments) {
        panic!("{arguments:?}: {error}");
    }
}

#[test]
fn the_example_configuration_is_what_config_init_prints() {
    assert_eq!(read("assent.toml"), config::commented_defaults(), "write it anew with `assent config init`");
    let file = ConfigFile::Required(root().join("deploy/assent.toml"));
    let loaded = config::load(&Sources { file, ..Sources::default() }).unwrap();
    assert_eq!(loaded.settings, Settings::default());
}

/// The values of a key of a unit's section, in order.
fn unit_values(section: &str, key: &str) -> Vec<String> {
    let unit = read("assent.service");
    let (_, rest) = unit.split_once(&format!("[{section}]\n")).unwrap();
    rest.lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_unit_starts_a_command_that_exists_with_the_paths_of_the_defaults() {
    let lines = read("assent.service");
    for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let is_section = line.starts_with('[') && line.ends_with(']');
        assert!(is_section || line.split_once('=').is_some_and(|(key, _)| !key.contains(' ')), "{line}");
    }
    let start = unit_values("Service", "ExecStart");
    let [start] = start.as_slice() else { panic!("{start:?}") };
    let arguments: Vec<String> = start.split_whitespace().map(str::to_owned).collect();
    assert_understood(&arguments);
    assert_eq!(arguments[1], "serve");

    let defaults = Settings::default();
    let state = unit_values("Service", "StateDirectory");
    assert_eq!(defaults.storage.data_dir, Path::new("/var/lib").join(&state[0]));
    let stop = unit_values("Service", "TimeoutStopSec")[0].parse::<config::Span>().unwrap();
    assert!(stop > defaults.server.drain_timeout, "systemd would kill it while it drains");
}

#[test]
fn the_unit_is_hardened() {
    for (key, value) in [
        ("DynamicUser", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("Restart", "on-failure"),
    ] {
        assert_eq!(unit_values("Service", key), [value], "{key}");
    }
}

#[test]
fn systemd_accepts_the_unit_where_it_is_installed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("assent.service");
    // It looks for the binary that the unit starts.
    let unit = read("assent.service").replace("/usr/bin/assent", env!("CARGO_BIN_EXE_assent"));
    std::fs::write(&path, unit).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() {
        // Not every machine has systemd; the tests above are for those.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        result => {
            let output = result.unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !stderr.contains("assent.service:"), "{stderr}");
        }
    }
}

/// The instructions of the Dockerfile: name and the rest of the line.
fn instructions() -> Vec<(String, String)> {
    read("Dockerfile")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(' ').map(|(name, rest)| (name.to_owned(), rest.to_owned())).unwrap())
        .collect()
}

fn all(name: &str) -> Vec<String> {
    instructions().into_iter().filter(|(found, _)| found == name).map(|(_, rest)| rest).collect()
}

/// The command in the form of a JSON array, from where it begins.
fn exec_form(text: &str) -> Vec<String> {
    serde_json::from_str(&text[text.find('[').unwrap()..]).unwrap()
}

#[test]
fn the_image_copies_all_that_the_build_needs_and_nothing_that_is_not_there() {
    let copied: Vec<PathBuf> = all("COPY")
        .iter()
        .filter(|rest| !rest.starts_with("--from="))
        .flat_map(|rest| {
            let (sources, _) = rest.rsplit_once(' ').unwrap();
            sources.split_whitespace().map(PathBuf::from).collect::<Vec<_>>()
        })
        .collect();
    for source in &copied {
        assert!(root().join(source).exists(), "{} is not in the repository", source.display());
    }
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members = members.iter().map(|member| member.as_str().unwrap());
    for needed in members.chain(["src", "Cargo.toml", "Cargo.lock"]) {
        assert!(copied.iter().any(|source| Path::new(needed).starts_with(source)), "{needed} is not copied");
    }
}

#[test]
fn the_image_runs_commands_that_exist_on_the_port_it_exposes_and_not_as_root() {
    let entry = exec_form(&all("ENTRYPOINT")[0]);
    assert_understood(&[entry, exec_form(&all("CMD")[0])].concat());
    let health = exec_form(&all("HEALTHCHECK")[0]);
    assert_understood(&health);
    assert_eq!(health[1], "health");
    assert_eq!(all("USER"), ["nonroot"]);

    let environment: Vec<(OsString, OsString)> = all("ENV")
        .iter()
        .map(|rest| rest.split_once('=').unwrap())
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let settings = config::load(&Sources { environment, ..Sources::default() }).unwrap().settings;
    assert_eq!(all("EXPOSE"), [settings.server.listen.port().to_string()]);
    assert!(settings.server.listen.ip().is_unspecified(), "nobody outside the container would reach it");
    assert_eq!(all("VOLUME"), [settings.storage.data_dir.to_str().unwrap()]);
    let asked = "http://127.0.0.1:7420".parse::<config::Endpoint>().unwrap();
    assert_eq!(settings.server.listen.port(), asked.port(), "where `assent health` asks by default");
}
